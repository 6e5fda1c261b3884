"""The settings of a run: one model, a stream of domains, and the arms that go through it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from longspan.data.tokenizer import SMALLEST_VOCAB
from longspan.systems.hprompt_cpt.arm_settings import ArmSettings, Count
from longspan.train.optimizer_settings import OptimizerSettings
from longspan.train.settings import Length, Settings
from longspan.train.sizes import SIZES

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Names of runs, domains, orders and arms are also names of folders."""
FAMILIES = {"roberta": "masked", "modernbert": "masked", "llama": "causal"}
"""New models, and how they predict."""


class DomainSettings(Settings):
    """One domain: text to learn from, and a task to be tuned on afterwards."""

    text: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Files, folders, .jsonl files or `datasets:NAME`; null takes the texts of `train`."""
    field: str = "text"
    """Key of the text in rows of .jsonl files."""
    train: str | None = None
    """Labelled .jsonl file to be tuned on; without one, the task is to predict held-out tokens."""
    test: str | None = None
    label: str = "label"
    """Key of the label; rows without one are text only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.train is None) != (self.test is None):
            raise ValueError("'train' and 'test' belong together: set both, or none for a domain without labels")
        if self.text is None and self.train is None:
            raise ValueError("the domain has nothing to read: set 'text', or 'train' and 'test'")
        if self.label != "label" and self.train is None:
            raise ValueError("'label' has no effect without 'train'; leave it out")
        return self

    @property
    def sources(self) -> list[str]:
        """What is read in pre-training."""
        text = self.text if self.text is not None else self.train
        assert text is not None
        return [text] if isinstance(text, str) else text


class StageSettings(Settings):
    """The training of one stage, equal for all arms."""

    steps: Count
    rows: Count = 32
    """Windows in an optimizer step."""
    optimizer: OptimizerSettings = Field(default_factory=lambda: OptimizerSettings.model_validate({}))
    save_every: Count = 100
    log_every: Count = 20


class BaseSettings(StageSettings):
    """General text that a new model learns before the first stage."""

    text: str
    field: str = "text"


class ModelSettings(Settings):
    """A new model by family and size, or a trained one."""

    from_: str | None = Field(None, alias="from")
    """Folder or hub name of a masked or causal language model."""
    kind: Literal["masked", "causal"] | None = None
    """How the model named in `from` predicts."""
    family: Literal["roberta", "modernbert", "llama"] | None = None
    size: str | None = None
    vocab_size: Annotated[int, Field(ge=SMALLEST_VOCAB)] | None = None
    """Size of the tokenizer that is trained with a new model."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("from") is not None:
            return values
        return {"family": "roberta", "size": "1m", "vocab_size": 4096, **values}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.from_ is None:
            if self.kind is not None:
                raise ValueError("'kind' is of the model named in 'from'; for a new one set 'family'")
            if self.size not in SIZES:
                raise ValueError(f"unknown size '{self.size}': choose one of {', '.join(SIZES)}")
            return self
        if self.kind is None:
            raise ValueError("'from' needs 'kind': masked or causal")
        for key in ("family", "size", "vocab_size"):
            if getattr(self, key) is not None:
                raise ValueError(f"'{key}' has no effect together with 'from'; leave one of them out")
        return self

    @property
    def causal(self) -> bool:
        """Whether the model predicts what comes next, and not what is masked."""
        return (self.kind or FAMILIES[str(self.family)]) == "causal"


class FinetuneSettings(Settings):
    """How a model is tuned on a domain's task, equal for all arms: no domain is named, prompts follow from the text."""

    steps: Annotated[int, Field(ge=0)] = 100
    rows: Count = 16
    optimizer: OptimizerSettings = Field(
        default_factory=lambda: OptimizerSettings.model_validate({"learning_rate": 3e-4, "weight_decay": 0.01})
    )
    prompts: Literal["keep", "drop"] = "keep"
    hypernetwork: Literal["train", "freeze"] = "train"
    """Whether what makes the prompts goes on learning."""
    max_test: Count | None = None
    """Test samples at most, the first ones; null: all."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.prompts == "drop" and self.hypernetwork == "freeze":
            raise ValueError("'hypernetwork' has no effect on prompts that are dropped; leave it out")
        return self


class CptConfig(Settings):
    """Everything that decides a run."""

    name: Name
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(default_factory=lambda: [0])
    model: ModelSettings = Field(default_factory=lambda: ModelSettings.model_validate({}))
    length: Length = 64
    """Tokens of text in a window, the same for every arm; prompts come on top."""
    base: BaseSettings | None = None
    """Training of a new model before the first stage."""
    domains: dict[Name, DomainSettings]
    orders: dict[Name, list[str]] | None = None
    """The order in which domains come; null: as they are listed."""
    arms: Annotated[dict[Name, ArmSettings], Field(min_length=1)]
    pretrain: StageSettings
    finetune: FinetuneSettings = Field(default_factory=lambda: FinetuneSettings.model_validate({}))
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("orders") is None and isinstance(values.get("domains"), dict):
            return {**values, "orders": {"given": [str(name) for name in values["domains"]]}}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.domains) < 2:
            raise ValueError("'domains' lists one domain: nothing can be forgotten or unseen; list at least two")
        assert self.orders is not None
        for name, order in self.orders.items():
            if sorted(order) != sorted(self.domains):
                raise ValueError(
                    f"'orders.{name}' must list every domain once: {', '.join(self.domains)}; not {', '.join(order)}"
                )
        if (self.base is None) == (self.model.from_ is None):
            raise ValueError("set one of 'base' (text that a new model learns first) and 'model.from'")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"'seeds' {self.seeds} names one twice; leave it out")
        if "initial" in self.arms:
            raise ValueError(
                "'arms.initial': that is what the model before the first stage is called; choose another name"
            )
        return self

    def order(self, name: str) -> list[str]:
        """The domains in the order called `name`."""
        assert self.orders is not None
        return self.orders[name]

    @property
    def longest_prompt(self) -> int:
        """Soft tokens that need positions of their own, of the arm that has most of them."""
        return max(arm.prompt.tokens if arm.prompt is not None else 0 for arm in self.arms.values())
