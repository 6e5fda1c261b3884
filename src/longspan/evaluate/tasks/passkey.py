"""Passkey: the public prompt, and the rule by which the first five digits of an answer count."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from longspan.evaluate.task import PROMPTS_READ, Place, Sample, SampleTask

if TYPE_CHECKING:
    from longspan.evaluate.frame import Frame

_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Passkey(SampleTask):
    """Find a five-digit key in filler sentences.

    Right if the first five digits of the greedy answer, at most 10 new tokens, are the key: whatever stands between
    them, and whatever follows. The loss of the answer is in nats per digit; a guess costs ln 10.
    Source: the prompt of landmark-attention (Mohtashami & Jaggi 2023), ours exact to the token.
    """

    reads: ClassVar[frozenset[str]] = PROMPTS_READ | {"haystack"}

    reads_on: ClassVar[bool] = False

    def sample(self, frame: Frame, place: Place) -> Sample:
        from longspan.data.passkey import random_key

        rng = place.rng()
        key = random_key(rng)
        depth = 0.5 if place.depth is None else place.depth
        if frame.haystack is None:
            made = frame.template.sample(place.length, depth, key)
        else:
            start = int(rng.integers(max(1, len(frame.haystack) - place.length + 1)))
            filler = [int(token) for token in frame.haystack[start : start + place.length]]
            made = frame.template.sample(place.length, depth, key, filler)
        return Sample(
            prompt_ids=made.prompt_ids, answer_ids=made.answer_ids, references=(str(key),), distance=made.distance
        )

    def score(self, answer: str, sample: Sample) -> float:
        return float(_digits(answer) == sample.references[0])

    def settled(self, answer: str, sample: Sample) -> float | None:
        # up to here the digits are the key's; the next token may still leave the key possible
        digits, (key,) = _digits(answer), sample.references
        if digits == key:
            return 1.0
        return None if key.startswith(digits) else 0.0

    def nll_units(self, sample: Sample) -> int:
        return _DIGITS

    def new_tokens(self, sample: Sample) -> int:
        return 10


def _digits(text: str) -> str:
    return "".join(re.findall(r"[0-9]", text))[:_DIGITS]
