"""Copying by distance: a random string comes again; no text and no instruction, for small models, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from longspan.errors import LengthError
from longspan.evaluate.task import PROMPTS_READ, Place, Sample, SampleTask

if TYPE_CHECKING:
    from longspan.evaluate.frame import Frame


@dataclass(frozen=True, slots=True)
class Copying(SampleTask):
    """Go on with a random string of tokens that has been seen once before.

    The prompt is BOS and random tokens; `span` of them stand at the depth asked for, and their first `shown` come
    again at its end. Right if the model goes on with the rest of them; `nll` is the loss of that rest per token, whose
    chance level is the logarithm of the vocabulary. Distance runs from the beginning of the string to the answer.
    Source: the repeated random tokens of Olsson et al. 2022, with the distance as the axis.
    """

    span: int = 16
    """Tokens of the string."""
    shown: int = 8
    """How many of them come again before the answer."""

    reads: ClassVar[frozenset[str]] = PROMPTS_READ - {"chat"}

    def sample(self, frame: Frame, place: Place) -> Sample:
        rng, opening = place.rng(), list(frame.talk.opening_ids)
        spare = place.length - len(opening) - 2 * self.span
        if spare < 0:
            raise LengthError(
                f"a prompt of {frame.name} takes at least {place.length - spare} tokens, more than the length "
                f"{place.length}: choose greater lengths"
            )
        filler, string = (rng.choice(frame.ordinary, size=size).tolist() for size in (spare, self.span))
        start = round((0.5 if place.depth is None else place.depth) * spare)
        prompt = [*opening, *filler[:start], *string, *filler[start:], *string[: self.shown]]
        answer = string[self.shown :]
        return Sample(
            prompt_ids=prompt,
            answer_ids=answer,
            references=(frame.tokenizer.decode(answer),),
            distance=len(prompt) - len(opening) - start,
        )

    def score(self, answer: str, sample: Sample) -> float:
        return float(bool(sample.references[0]) and answer.startswith(sample.references[0]))

    def settled(self, answer: str, sample: Sample) -> float | None:
        if answer.startswith(sample.references[0]):
            return 1.0
        return None if sample.references[0].startswith(answer) else 0.0

    def new_tokens(self, sample: Sample) -> int:
        return len(sample.answer_ids)
