"""Needles: sentences with a key and a value, hidden in text; a family of one to four keys, values and questions."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from longspan.evaluate import answers, words
from longspan.evaluate.task import PROMPTS_READ, Place, Sample, SampleTask

if TYPE_CHECKING:
    from longspan.evaluate.frame import Frame, Slot

Form = Literal["word", "number", "uuid"]
_DIGITS = 7
_PATTERNS = {"number": answers.number(_DIGITS), "uuid": answers.HEXADECIMAL}
INSTRUCTION = "Some access codes are hidden in the following text. Remember them: you will be asked about them."


@dataclass(frozen=True, slots=True)
class _Hidden:
    """What one prompt hides and asks for."""

    asked: list[str]
    """Keys that are asked for."""
    needles: list[tuple[str, str]]
    """Keys and values, those that are asked for first."""

    @property
    def values(self) -> list[str]:
        """Those that a right answer lists."""
        return [value for key in self.asked for name, value in self.needles if name == key]


@dataclass(frozen=True, slots=True)
class Needle(SampleTask):
    """Recall the access code of a name from a long text.

    A needle is the line "The access code of NAME is CODE." Names are pairs of words or UUIDs, codes have seven digits
    or are UUIDs. Depth is the place of the needle asked for; others, if any, stand at random places. Right if the
    first code in the answer is the one asked for; where several are asked for, the score is the share of them among as
    many first codes.
    Source: the needle tasks of RULER (Hsieh et al. 2024), with words of our own.
    """

    hay: Literal["noise", "text", "needles"] = "text"
    """What stands around: sentences that repeat, made-up prose (or --haystack), or nothing but further needles."""
    key: Literal["word", "uuid"] = "word"
    """What a name is."""
    value: Literal["number", "uuid"] = "number"
    """What a code is."""
    keys: int = 1
    """Names that have a code (with `hay="needles"` as many as fit)."""
    values: int = 1
    """Codes of each name that is asked for."""
    queries: int = 1
    """Names that are asked for."""

    reads: ClassVar[frozenset[str]] = PROMPTS_READ | {"haystack"}

    @property
    def metric(self) -> str:  # type: ignore[override]
        """One code is right or wrong; of several a share is."""
        return "recall" if self._several else "accuracy"

    @property
    def has_depth(self) -> bool:  # type: ignore[override]
        """Whether one needle is asked for."""
        return not self._several

    @property
    def _several(self) -> bool:
        return self.values * self.queries > 1

    def sample(self, frame: Frame, place: Place) -> Sample:
        rng = place.rng()
        hidden = self._hide(rng)
        lines = [frame.line(_sentence(key, value)) for key, value in hidden.needles]
        slot = self._slot(frame, place.length, hidden, least=sum(map(len, lines)))
        if self.hay == "needles":
            lines += self._more(frame, rng, slot, lines, {key for key, _ in hidden.needles})
            return self._among_needles(frame, place, slot, lines, hidden, rng)
        spare = slot.count - sum(map(len, lines))
        hay = frame.noise(spare) if self.hay == "noise" else frame.text(spare, place.shared_rng())
        ends = frame.ends(hay)
        depths = rng.random(len(lines))
        if place.depth is not None:
            depths[0] = place.depth
        places = [min(ends, key=lambda end: abs(end - depth * spare)) for depth in depths]
        context, starts = frame.insert(hay, lines, places)
        needed = starts[: len(hidden.values)]
        return frame.finish(slot, context, hidden.values, min(needed))

    def _hide(self, rng: np.random.Generator) -> _Hidden:
        count = max(self.keys, self.queries)
        names = words.compounds(rng, count) if self.key == "word" else [_uuid(rng) for _ in range(count)]
        asked = names[: self.queries]
        needles = [(name, self._value(rng)) for name in asked for _ in range(self.values)]
        needles += [(name, self._value(rng)) for name in names[self.queries :]]
        return _Hidden(asked, needles)

    def _value(self, rng: np.random.Generator) -> str:
        return _uuid(rng) if self.value == "uuid" else str(rng.integers(10 ** (_DIGITS - 1), 10**_DIGITS))

    def _slot(self, frame: Frame, length: int, hidden: _Hidden, least: int) -> Slot:
        names = _listed(hidden.asked)
        codes = "access codes" if self._several else "access code"
        verb = "are" if self._several else "is"
        question = f"What {verb} the {codes} of {names}?"
        return frame.slot(
            length, INSTRUCTION, question, f"The {codes} of {names} {verb}", _listed(hidden.values), least
        )

    def _more(
        self, frame: Frame, rng: np.random.Generator, slot: Slot, lines: list[list[int]], taken: set[str]
    ) -> list[list[int]]:
        """Further needles, as many as fit."""
        found: list[list[int]] = []
        used = sum(map(len, lines))
        while True:
            name = words.compound(int(rng.integers(words.COMPOUNDS))) if self.key == "word" else _uuid(rng)
            if name in taken and len(taken) < words.COMPOUNDS:
                continue
            line = frame.line(_sentence(name, self._value(rng)))
            if used + len(line) > slot.count:
                return found
            taken.add(name)
            found.append(line)
            used += len(line)

    def _among_needles(
        self,
        frame: Frame,
        place: Place,
        slot: Slot,
        lines: list[list[int]],
        hidden: _Hidden,
        rng: np.random.Generator,
    ) -> Sample:
        asked, others = lines[: len(hidden.values)], lines[len(hidden.values) :]
        order = list(others)
        spots = rng.random(len(asked)) if place.depth is None else np.array([place.depth])
        for line, spot in zip(asked, spots, strict=True):
            order.insert(round(spot * len(order)), line)
        padding = frame.noise(slot.count - sum(map(len, order)))
        context, first = list(padding), None
        for line in order:
            if first is None and any(line is one for one in asked):
                first = len(context)
            context += line
        return frame.finish(slot, context, hidden.values, first)

    def score(self, answer: str, sample: Sample) -> float:
        return answers.recall(answer, sample.references, _PATTERNS[self.value])

    def settled(self, answer: str, sample: Sample) -> float | None:
        return answers.settled_recall(answer, sample.references, _PATTERNS[self.value])


def _sentence(key: str, value: str) -> str:
    return f"The access code of {key} is {value}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _uuid(rng: np.random.Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


PRESETS = {
    "niah_single_1": Needle(hay="noise"),
    "niah_single_2": Needle(hay="text"),
    "niah_single_3": Needle(hay="text", value="uuid"),
    "niah_multikey_1": Needle(hay="text", keys=4),
    "niah_multikey_2": Needle(hay="needles"),
    "niah_multikey_3": Needle(hay="needles", key="uuid", value="uuid"),
    "niah_multivalue": Needle(hay="text", values=4),
    "niah_multiquery": Needle(hay="text", keys=4, queries=4),
}
GROUPS = {"ruler": tuple(PRESETS)}
