"""The settings of a study: models that differ in their arms alone, trained on the same data in the same order."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from longspan.systems.discrec.embedding import Branch, Gate
from longspan.systems.discrec.model import DiscRecConfig
from longspan.systems.discrec.prepare import Prepared
from longspan.train.settings import Settings

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class ArmSettings(Settings):
    """One model: DiscRec itself where nothing is set."""

    branch: Branch = "item"
    gate: Gate = "softmax"
    slot_positions: bool = True
    """Whether the branch knows the place of a token in its item."""
    left_padding: bool = False
    """Pad short histories in front, so that EOS follows the last item."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.branch == "none" and (self.gate != "softmax" or not self.slot_positions):
            raise ValueError("'gate' and 'slot_positions' have no effect without a branch; leave them out")
        return self


class SizeSettings(Settings):
    """The size of the T5, and of the branch in front of each of its stacks."""

    layers: Count = 4
    width: Count = 128
    heads: Count = 6
    head_width: Count = 64
    feed_forward: Count = 1024
    branch_heads: Count = 2
    dropout: Share = 0.1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.branch_heads:
            raise ValueError(f"'branch_heads' {self.branch_heads} does not divide 'width' {self.width}")
        return self


class StudySettings(Settings):
    """What `longspan discrec train` reads; the defaults are those of the paper's code."""

    name: str
    data: str
    """Folder made by `longspan discrec prepare`."""
    arms: Annotated[dict[str, ArmSettings], Field(min_length=1)] = Field(
        default_factory=lambda: {"discrec": ArmSettings()}
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = Field(default=[1024])
    history: Count = 20
    """T: newest items that are read."""
    size: SizeSettings = SizeSettings()
    epochs: Count | None = None
    """Times that all samples are learned (200 unless `steps` is set)."""
    steps: Count | None = None
    """Or optimizer steps."""
    batch: Count = 256
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup: Share = 0.01
    """Share of the steps in which the learning rate rises; then it falls by a cosine to 0."""
    patience: Count = 20
    """Epochs without a better validation loss after which training ends."""
    validation_users: Count | None = None
    """Users whose validation loss chooses the model, drawn by the seed; null: all."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count | None = None
    save_every: Count | None = None
    """Steps between two saved states; null: an epoch."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is None and values.get("epochs") is None:
            return {**values, "epochs": 200}
        return values

    @field_validator("arms", mode="before")
    @classmethod
    def _empty_arms(cls, values: Any) -> Any:
        return (
            {name: {} if arm is None else arm for name, arm in values.items()} if isinstance(values, dict) else values
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("set one of 'epochs' and 'steps', not both")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("'seeds' names one twice; give different ones")
        for name in self.arms:
            if not name or set(name) & set("/\\ "):
                raise ValueError(f"'arms': '{name}' names a folder, too; write it without blanks and slashes")
        return self

    def total_steps(self, per_epoch: int) -> int:
        """Optimizer steps of a run that is not ended early."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * per_epoch

    def epochs_begun(self, per_epoch: int) -> int:
        """Epochs that a run takes batches from."""
        return math.ceil(self.total_steps(per_epoch) / per_epoch)

    def decisive(self, arm: str, seed: int) -> dict[str, Any]:
        """Everything that decides the result of one run."""
        free = {"name", "data", "arms", "seeds", "device", "threads", "save_every"}
        shared = {key: value for key, value in self.to_json().items() if key not in free}
        return {**shared, "arm": self.arms[arm].to_json(), "seed": seed}

    def model_config_of(self, arm: str, data: Prepared) -> DiscRecConfig:
        """The model of an arm for these items."""
        size, chosen = self.size, self.arms[arm]
        return DiscRecConfig(
            vocab_size=data.ids.vocabulary,
            codes_per_item=data.ids.levels,
            codebook_size=data.ids.codebook_size,
            history=self.history,
            d_model=size.width,
            d_kv=size.head_width,
            d_ff=size.feed_forward,
            num_layers=size.layers,
            num_heads=size.heads,
            dropout_rate=size.dropout,
            branch=chosen.branch,
            gate=chosen.gate,
            slot_positions=chosen.slot_positions,
            left_padding=chosen.left_padding,
            branch_heads=size.branch_heads,
            branch_width=size.feed_forward,
        )
