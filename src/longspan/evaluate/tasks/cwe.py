"""Common words: which words of a long list come most often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from longspan.errors import LengthError
from longspan.evaluate import answers, words
from longspan.evaluate.task import Place, Sample, SampleTask

if TYPE_CHECKING:
    from longspan.evaluate.frame import Frame, Slot

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
        slot = frame.slot(place.length, INSTRUCTION, question, lead, ", ".join(asked))
        times, count = self._shape(frame, slot, asked, others)
        if not count:
            self._refuse(frame, place, slot, asked, others)
        listed = asked * (self.ratio * times) + others[:count] * times
        items = _items(frame, [listed[number] for number in rng.permutation(len(listed))])
        while sum(map(len, items)) > slot.count:  # rarely: the order has moved words to longer numbers
            items.pop()
        padding = frame.noise(slot.count - sum(map(len, items)))
        context = padding + [token for item in items for token in item]
        return frame.finish(slot, context, asked, len(padding), candidates=pool[: self.common + count])

    def _shape(self, frame: Frame, slot: Slot, asked: list[str], others: list[str]) -> tuple[int, int]:
        """How often an uncommon word comes, and how many of them fit: as many as the common ones at least, or none."""
        for times in (3, 2, 1):
            spare = slot.count - _tokens(frame, asked) * self.ratio * times
            # the number before a word takes tokens, too: those of the longest number that can come
            number = len(frame.piece(f" {slot.count}."))
            spare -= number * len(asked) * self.ratio * times
            count = 0
            while count < len(others) and spare > 0:
                spare -= (len(frame.piece(f" {others[count]}")) + number) * times
                count += spare >= 0
            if count >= self.common:
                return times, count
        return 1, 0

    def _refuse(self, frame: Frame, place: Place, slot: Slot, asked: list[str], others: list[str]) -> None:
        number = len(frame.piece(f" {slot.count}."))
        need = _tokens(frame, asked) * self.ratio + _tokens(frame, others[: self.common])
        need += number * self.common * (self.ratio + 1)
        raise LengthError(
            f"a prompt of {frame.name} takes at least {place.length - slot.count + need} tokens with this tokenizer, "
            f"more than the length {place.length}: choose greater lengths"
        )

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


def _tokens(frame: Frame, listed: list[str]) -> int:
    return sum(len(frame.piece(f" {word}")) for word in listed)


GROUPS = {"ruler": ("cwe",)}
