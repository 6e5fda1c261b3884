"""Copying by distance: a random string comes again; no text and no instruction, for small models, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from longspan.errors import LengthError
from longspan.evaluate.task import PROMPTS_READ, Place, Sample, SampleTask

if TYPE_CHECKING:
    from longspan.evaluate.frame import Frame


@dataclass(frozen=True, slots=True)
class Copying(SampleTask):
    """Go on with a random string of tokens that has been seen once before.

    The prompt is BOS and random tokens; the string stands at the depth asked for, and its first tokens come again at
    the end, and nowhere else. Right if the most likely tokens are the rest of it; `nll` is the loss of that rest per
    token, whose chance level is the logarithm of the vocabulary. Distance runs from the string to the answer.
    `induction` is the shortest case: after one token, the one that followed it. Token by token, no text is read.
    Source: the repeated random tokens of Olsson et al. 2022, with the distance as the axis.
    """

    span: int = 16
    """Tokens of the string."""
    shown: int = 8
    """How many of them come again before the answer."""

    reads: ClassVar[frozenset[str]] = PROMPTS_READ - {"chat", "decoding"}
    by_token: ClassVar[bool] = True
    reads_on: ClassVar[bool] = False

    def sample(self, frame: Frame, place: Place) -> Sample:
        rng, opening = place.rng(), list(frame.talk.opening_ids)
        spare = place.length - len(opening) - 2 * self.span
        if spare < 0:
            raise LengthError(
                f"a prompt of {frame.name} takes at least {place.length - spare} tokens, more than the length "
                f"{place.length}: choose greater lengths"
            )
        string = rng.choice(frame.ordinary, size=self.span, replace=False)
        # what is shown must not stand elsewhere, or there would be two ways to go on
        filler = rng.choice(np.setdiff1d(frame.ordinary, string[: self.shown]), size=spare).tolist()
        start = round((0.5 if place.depth is None else place.depth) * spare)
        tokens = string.tolist()
        prompt = [*opening, *filler[:start], *tokens, *filler[start:], *tokens[: self.shown]]
        answer = tokens[self.shown :]
        return Sample(
            prompt_ids=prompt,
            answer_ids=answer,
            references=(frame.tokenizer.decode(answer),),
            distance=len(prompt) - len(opening) - start,
        )

    def score(self, answer: str, sample: Sample) -> float:
        return float(answer.startswith(sample.references[0]))


PRESETS = {"induction": Copying(span=2, shown=1)}
GROUPS = {"small": ("copying", "induction", "passkey")}
