"""Common words: which words of a long list come most often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from longspan.evaluate import answers, words
from longspan.evaluate.task import Place, Sample, SampleTask

if TYPE_CHECKING:
    from longspan.evaluate.frame import Frame

INSTRUCTION = "Below is a numbered list of words. A few of them come up much more often than the others."


@dataclass(frozen=True, slots=True)
class CommonWords(SampleTask):
    """Name the most common words of a numbered list in random order.

    Some words come up ten times as often as all others: 30 times and 3 times, or 20 and 2, or 10 and 1, whatever fits.
    With the length grows the number of other words. The score is the share of the common words among as many first
    words of the list that the answer names.
    Source: common words extraction of RULER (Hsieh et al. 2024); our words are pairs of an adjective and a noun.
    """

    common: int = 10
    """Words to be named."""
    ratio: int = 10
    """How much more often they come than the others."""

    metric: ClassVar[str] = "recall"
    has_depth: ClassVar[bool] = False

    def sample(self, frame: Frame, place: Place) -> Sample:
        rng = place.rng()
        pool = words.compounds(rng, words.COMPOUNDS)
        asked, others = pool[: self.common], pool[self.common :]
        question = f"What are the {self.common} most common words in the list?"
        lead = "The most common words are"
        number = len(frame.piece(f" {max(1000, place.length)}."))  # before each word, at most

        def cost(word: str) -> int:
            return len(frame.piece(f" {word}")) + number

        least = self.ratio * sum(map(cost, asked)) + sum(map(cost, others[: self.common]))
        slot = frame.slot(place.length, INSTRUCTION, question, lead, ", ".join(asked), least)
        for times in (3, 2, 1):
            costs = np.cumsum([times * cost(word) for word in others[: slot.count // (times * (number + 1))]])
            spare = slot.count - times * self.ratio * sum(map(cost, asked))
            count = int(np.searchsorted(costs, spare, side="right"))
            if count >= self.common:
                break
        listed = asked * (self.ratio * times) + others[:count] * times
        items = _items(frame, [listed[number] for number in rng.permutation(len(listed))])
        padding = frame.noise(slot.count - sum(map(len, items)))
        context = padding + [token for item in items for token in item]
        return frame.finish(slot, context, asked, len(padding), candidates=pool[: self.common + count])

    def score(self, answer: str, sample: Sample) -> float:
        return answers.recall(answer, sample.references, answers.WORD, sample.among)

    def settled(self, answer: str, sample: Sample) -> float | None:
        return answers.settled_recall(answer, sample.references, answers.WORD, sample.among)


def _items(frame: Frame, listed: list[str]) -> list[list[int]]:
    head = frame.line("1.")
    return [
        (head if number == 1 else frame.piece(f" {number}.")) + frame.piece(f" {word}")
        for number, word in enumerate(listed, start=1)
    ]


GROUPS = {"ruler": ("cwe",)}
