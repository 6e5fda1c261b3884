"""Frequent words: which coined words of a text come most often, when frequencies fall off like a power."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from longspan.evaluate import answers
from longspan.evaluate.task import Place, Sample, SampleTask

if TYPE_CHECKING:
    from longspan.evaluate.frame import Frame

_SYLLABLES = tuple(first + second for first in "bdfgklmnprstvz" for second in "aeiou")
INSTRUCTION = "Below is a text in a code. Find out which of its words come up most often."


@dataclass(frozen=True, slots=True)
class FrequentWords(SampleTask):
    """Name the three most frequent words of a text of coined words.

    Word number r of the vocabulary comes up in proportion to r to the power of minus `exponent`, in random order; the
    counts of the words asked for differ. The score is the share of them among as many first words of the text that
    the answer names.
    Source: frequent words extraction of RULER (Hsieh et al. 2024); here without the dots that RULER puts in as noise.
    """

    asked: int = 3
    """Words to be named."""
    exponent: float = 2.0
    """How fast frequencies fall."""
    vocabulary: int = 200
    """Different words at most."""

    metric: ClassVar[str] = "recall"
    has_depth: ClassVar[bool] = False

    def sample(self, frame: Frame, place: Place) -> Sample:
        rng = place.rng()
        coined = _coined(rng, self.vocabulary)
        asked = coined[: self.asked]
        question = f"What are the {self.asked} most frequent words of the text?"
        pieces = [frame.piece(f" {word}") for word in coined]
        sizes = np.array([len(piece) for piece in pieces])
        newline = frame.newline
        fewest = next(total for total in itertools.count(1) if self._clear(self._counts(total)))
        least = len(newline) + int(self._counts(fewest) @ sizes)
        slot = frame.slot(place.length, INSTRUCTION, question, "The most frequent words are", ", ".join(asked), least)
        counts = self._counts(_most_words(sizes, slot.count - len(newline), self._counts))
        order = rng.permutation(np.repeat(np.arange(len(coined)), counts))
        body = newline + [token for number in order for token in pieces[number]]
        padding = frame.noise(slot.count - len(body))
        return frame.finish(slot, padding + body, asked, len(padding), candidates=coined)

    def _counts(self, total: int) -> np.ndarray:
        """How often each word comes in a text of about `total` words; whole numbers, int64 [vocabulary]."""
        shares = np.arange(1, self.vocabulary + 1) ** -self.exponent
        return np.floor(total * shares / shares.sum()).astype(np.int64)

    def _clear(self, counts: np.ndarray) -> bool:
        """Whether the words asked for are ahead of all others, and of one another."""
        ahead = counts[: self.asked + 1]
        return bool((np.diff(ahead) < 0).all() and ahead[-1] >= 1)

    def score(self, answer: str, sample: Sample) -> float:
        return answers.recall(answer, sample.references, answers.WORD, sample.among)

    def settled(self, answer: str, sample: Sample) -> float | None:
        return answers.settled_recall(answer, sample.references, answers.WORD, sample.among)


def _coined(rng: np.random.Generator, count: int) -> list[str]:
    """Different words of three syllables."""
    numbers = rng.choice(len(_SYLLABLES) ** 3, size=count, replace=False).tolist()
    base = len(_SYLLABLES)
    return [_SYLLABLES[n // base**2] + _SYLLABLES[n // base % base] + _SYLLABLES[n % base] for n in numbers]


def _most_words(sizes: np.ndarray, room: int, counts: Callable[[int], np.ndarray]) -> int:
    """The greatest number of words whose tokens fit into `room`."""
    low, high = 0, max(1, 2 * room)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(counts(middle) @ sizes) <= room else (low, middle - 1)
    return low


GROUPS = {"ruler": ("fwe",)}
