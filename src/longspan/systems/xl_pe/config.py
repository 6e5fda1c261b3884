"""The settings of a translation study: data, reorderer, translator, arms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from longspan.systems.xl_pe.parser import BEAM
from longspan.systems.xl_pe.positions import RankSource
from longspan.train.settings import Length, Settings

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class SplitSettings(Settings):
    """The two sides of a set of sentence pairs: a sentence a line, words parted by blanks."""

    source: Path
    target: Path
    alignments: Path | None = None
    """Word alignments in Pharaoh's format, counted from 0; null: eflomal makes them, of all splits at once."""


class GoldSettings(Settings):
    """Pairs aligned by hand, to train the reorderer on instead of the training pairs."""

    pairs: Path
    """`source ||| target` a line."""
    alignments: Path
    first_index: Literal[0, 1] = 0
    """The number of the first word."""


class ReordererSettings(Settings):
    """How the reorderer is trained."""

    sentences: Count = 5000
    """Training pairs to learn from at most, the first ones; memory grows with them."""
    longest: Annotated[int, Field(ge=2)] = 40
    """Words of the longest sentence to learn from."""
    iterations: Count = 10
    beam: Count = BEAM


class TranslatorSettings(Settings):
    """The size of the translator, the same in all arms."""

    vocab_size: Count = 8000
    """Sub-words of both languages together."""
    layers: Count = 4
    """Of the encoder, and of the decoder."""
    width: Count = 256
    heads: Count = 4
    feed_forward: Count = 1024
    dropout: Share = 0.2
    longest: Length = 128
    """Sub-words of the longest sentence; training pairs with a longer side are left out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(f"'width' {self.width} must give each of {self.heads} heads an even number of elements")
        return self


class TrainingSettings(Settings):
    """How every arm is trained: Adam, inverse square root of the step after a warm-up, label smoothing."""

    steps: Count = 6000
    batch_sentences: Count = 128
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Count = 1000
    label_smoothing: Share = 0.1
    log_every: Count = 100
    save_every: Count = 500
    """Steps between two saved states, from which an arm that was stopped goes on."""


class ArmSettings(Settings):
    """What one arm does with positions; the default is the plain Transformer."""

    fusion: Literal["none", "tanh", "linear", "gate"] = "none"
    """How both positions are joined at the input."""
    heads: Annotated[int, Field(ge=0)] = 0
    """Encoder heads that read cross-lingual positions."""
    where: Literal["first", "all"] = "all"
    """Layers whose heads read positions of their own."""
    encoding: Literal["sinusoidal", "rotary"] = "sinusoidal"
    ranks: RankSource = "parser"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ranks != "parser" and not self.reads_ranks():
            raise ValueError(f"'ranks' {self.ranks} has no effect: neither 'fusion' nor 'heads' reads them")
        if self.encoding == "rotary" and self.fusion != "none":
            raise ValueError("'fusion' is for added positions: leave it out with encoding rotary")
        return self

    def reads_ranks(self) -> bool:
        """Whether anything depends on the ranks."""
        return self.fusion != "none" or self.heads > 0

    def needs_reorderer(self) -> bool:
        """Whether a sentence must be reordered before it is translated."""
        return self.reads_ranks() and self.ranks == "parser"


class StudySettings(Settings):
    """Everything that decides a translation study."""

    name: str
    train: SplitSettings
    dev: SplitSettings
    test: SplitSettings
    gold: GoldSettings | None = None
    """What the reorderer learns from; null: the training pairs by their alignments."""
    reorderer: ReordererSettings = Field(default_factory=ReordererSettings)
    translator: TranslatorSettings = Field(default_factory=TranslatorSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    beams: Count = 4
    """Beam of the translation."""
    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """How sacrebleu cuts the target into words for BLEU; `char` for Japanese."""
    arms: Annotated[dict[str, ArmSettings], Field(min_length=1)]
    baseline: str | None = None
    """The arm that the others are compared with; null: the first."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = Field(default=[0, 1])
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(f"'baseline' {self.baseline} is not among the arms: {', '.join(self.arms)}")
        for name, arm in self.arms.items():
            if arm.heads > self.translator.heads:
                raise ValueError(f"'arms.{name}.heads' {arm.heads} is more than the {self.translator.heads} there are")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("'seeds' has one of them twice")
        return self

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        return self.baseline or next(iter(self.arms))

    def needs_alignments(self) -> bool:
        """Whether ranks of the reference or the reorderer's lessons come from alignments of the pairs."""
        return self.gold is None or any(arm.ranks == "oracle" for arm in self.arms.values())
