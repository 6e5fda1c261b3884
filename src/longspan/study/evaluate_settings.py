"""The settings of what a study measures, and on which text."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from longspan.data.text import Part
from longspan.train.settings import Length, Settings

Count = Annotated[int, Field(gt=0)]


class PerplexitySettings(Settings):
    """Perplexity by length, on the same targets for every length and arm."""

    documents: Count = 10
    """How many of the held-out documents, the first ones that are long enough."""
    max_targets: Count | None = 512
    """Scored tokens of each document; null scores all."""
    stride: Count | None = None
    """Tokens between window starts; null is a quarter of the window, at most 512."""
    variant: Literal["matched", "all"] = "matched"


class PositionSettings(Settings):
    """Loss by place in one long window."""

    length: Length | None = None
    """Tokens of the window; null is the longest of the study."""
    documents: Count = 4
    extensions: bool = True
    """Measure it under every extension; false: only of the arms as they were trained (one number a token adds up)."""


class PasskeySettings(Settings):
    """Retrieval of a five-digit key by length and depth."""

    depths: Count = 11
    trials: Count | dict[Length, Count] = 10
    """Trials of each depth; or by length, each number holding from that length on: `{256: 10, 4k: 2}`."""
    max_length: Length | None = None
    """Longest length at which it is measured; null measures all."""
    filler: Literal["template", "text"] = "template"
    """What the key is hidden in: the public template's sentences, or held-out text."""
    seed: int = 0
    """Seed of keys and places, the same for every arm."""
    gate: Annotated[float, Field(gt=0, le=1)] | None = 0.95
    """Accuracy that plain RoPE must reach inside the training window before retrieval says anything; null asks none."""

    def trials_at(self, length: int) -> int:
        """Trials of each depth at `length`."""
        if isinstance(self.trials, int):
            return self.trials
        return self.trials[max(start for start in self.trials if start <= length)]


class EvaluateSettings(Settings):
    """What is measured, on which text. Null switches a task off."""

    text: str
    """Held-out documents: a file, a folder, a .jsonl file or `datasets:NAME[:CONFIG][:SPLIT]`."""
    field: str = "text"
    """Key of the text in a row of a .jsonl file or data set."""
    part: Part = "all"
    """`validation` takes every 20th document, the ones that `part: train` leaves out of the training text."""
    perplexity: PerplexitySettings | None = Field(default_factory=PerplexitySettings)
    position: PositionSettings | None = Field(default_factory=PositionSettings)
    passkey: PasskeySettings | None = Field(default_factory=PasskeySettings)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.field != "text" and not (self.text.startswith("datasets:") or self.text.endswith(".jsonl")):
            raise ValueError("'field' has no effect on plain text; leave it out or name a .jsonl file")
        if self.perplexity is None and self.position is None and self.passkey is None:
            raise ValueError("every task is switched off; leave perplexity, position or passkey on")
        return self
