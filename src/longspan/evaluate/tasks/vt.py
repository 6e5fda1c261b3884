"""Variable tracking: assignments that hang together, scattered over a text."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from longspan.evaluate import answers
from longspan.evaluate.task import Place, Sample, SampleTask

if TYPE_CHECKING:
    from longspan.evaluate.frame import Frame

_LETTERS = 5
_NAME = f"[A-Z]{{{_LETTERS}}}"
INSTRUCTION = "Variables are set in the following text, some of them to other variables. Keep track of their values."


@dataclass(frozen=True, slots=True)
class VariableTracking(SampleTask):
    """Name every variable that has a value, directly or through others.

    "VAR ABCDE = 12345." starts a chain, and each hop "VAR FGHIJ = VAR ABCDE." hands the value on; the lines stand in
    their order at random places in sentences that repeat. The answer lists the variables of one chain; the score is
    the share of them among as many first variables that it names.
    Source: variable tracking of RULER (Hsieh et al. 2024).
    """

    chains: int = 1
    """Chains with values of their own; the first is asked for."""
    hops: int = 4
    """Times that a value is handed on."""

    metric: ClassVar[str] = "recall"
    has_depth: ClassVar[bool] = False

    def sample(self, frame: Frame, place: Place) -> Sample:
        rng = place.rng()
        names = _names(rng, self.chains * (self.hops + 1))
        chains = [names[start : start + self.hops + 1] for start in range(0, len(names), self.hops + 1)]
        values = rng.choice(np.arange(10_000, 100_000), size=self.chains, replace=False).tolist()
        lines = [frame.line(text) for chain, value in zip(chains, values, strict=True) for text in _told(chain, value)]
        question = f"Which variables have the value {values[0]}?"
        lead = f"The {self.hops + 1} variables with the value {values[0]} are"
        slot = frame.slot(place.length, INSTRUCTION, question, lead, ", ".join(chains[0]), least=sum(map(len, lines)))
        hay = frame.noise(slot.count - sum(map(len, lines)))
        ends = frame.ends(hay)
        places = [end for _ in chains for end in sorted(rng.choice(ends, size=self.hops + 1).tolist())]
        context, starts = frame.insert(hay, lines, places)
        return frame.finish(slot, context, chains[0], starts[0], candidates=names)

    def score(self, answer: str, sample: Sample) -> float:
        return answers.recall(answer, sample.references, _NAME, sample.among)

    def settled(self, answer: str, sample: Sample) -> float | None:
        return answers.settled_recall(answer, sample.references, _NAME, sample.among)


def _told(chain: list[str], value: int) -> list[str]:
    """The lines of a chain."""
    handed_on = [f"VAR {name} = VAR {before}." for before, name in itertools.pairwise(chain)]
    return [f"VAR {chain[0]} = {value}.", *handed_on]


def _names(rng: np.random.Generator, count: int) -> list[str]:
    """Different names of capital letters."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(chr(ord("A") + letter) for letter in rng.integers(26, size=_LETTERS))] = None
    return list(found)


GROUPS = {"ruler": ("vt",)}
