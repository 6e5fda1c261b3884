"""The passkey prompt: a five-digit key hidden in filler, and the question for it, exact to the token.

Template  the public one of landmark-attention (Apache-2.0): task, filler, key sentence, filler, question, a line each
Length    counts BOS, prompt and answer
Filler    whole sentences of the template in a fixed cycle; the sentence that would pass the end is cut there, so that
          the length is exact. Or tokens of ordinary text, given by the caller
Depth     share of the filler that stands before the key sentence: 0 right after the task, 1 right before the question;
          with the template's filler, moved to the nearest end of a sentence
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from longspan.data.pieces import NEUTRAL, Pieces
from longspan.data.talk import Talk, plain_talk
from longspan.errors import LengthError

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
FILLER = ("The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.")
KEY_SENTENCE = "The pass key is {key}. Remember it. {key} is the pass key."
ASKED, LEAD = "What is the pass key?", "The pass key is"
QUESTION = f"{ASKED} {LEAD}"
SMALLEST_KEY, LARGEST_KEY = 10000, 99999

Filler = Literal["template"] | Sequence[int]
"""What stands around the key: the template's sentences, or tokens of ordinary text."""


@dataclass(frozen=True, slots=True)
class PasskeySample:
    """A prompt and its answer; `len(prompt_ids) + len(answer_ids)` is the length asked for."""

    prompt_ids: list[int]
    """BOS (if the tokenizer has one) and everything up to the answer."""
    answer_ids: list[int]
    """The key, as it continues the prompt."""
    key: int
    distance: int
    """Tokens from the beginning of the key's line to the answer."""


class PasskeyTemplate:
    """The pieces of the prompt as tokens of one tokenizer, made once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, talk: Talk | None = None) -> None:
        """Pieces for `tokenizer`; `talk` says what stands around them, by default BOS alone."""
        self.talk = plain_talk(tokenizer) if talk is None else talk
        self._pieces = Pieces(tokenizer)
        self.head = [*self.talk.opening_ids, *self._pieces.after(self.talk.opening, f"{TASK}\n")]
        self.newline = self._pieces.after(NEUTRAL, "\n")
        self._first = [self._pieces.after(f"{NEUTRAL}\n", sentence) for sentence in FILLER]
        self._later = [self._pieces.after(NEUTRAL, f" {sentence}") for sentence in FILLER]

    def key_line(self, key: int) -> list[int]:
        """Tokens of the sentence that holds `key`, with the newlines around it."""
        return self._pieces.after(NEUTRAL, f"\n{KEY_SENTENCE.format(key=key)}\n")

    def question(self, key: int) -> tuple[list[int], list[int]]:
        """Tokens of the question with the newline before it, and of its answer, cut where the key begins."""
        return self._pieces.parted(f"\n{ASKED}{self.talk.between}{LEAD}", f" {key}")

    def shortest(self, head: list[int], key: int) -> int:
        """Tokens of the prompt and answer for `key`, opened by `head`, with no filler at all."""
        return len(head) + len(self.key_line(key)) + sum(map(len, self.question(key)))

    def sample(self, length: int, depth: float, key: int, filler: Filler = "template") -> PasskeySample:
        """A prompt and answer of `length` tokens together; arguments and errors are those of `passkey_sample`."""
        return self.task(self.head, length, depth, key, filler)

    def task(
        self,
        head: list[int],
        length: int,
        depth: float,
        key: int,
        filler: Filler = "template",
    ) -> PasskeySample:
        """Like `sample`, opened by the tokens `head` instead of BOS and the task description."""
        key_line, (question, answer) = self.key_line(key), self.question(key)
        count = length - len(head) - len(key_line) - len(question) - len(answer)
        if count < 0:
            raise LengthError(
                f"a passkey prompt takes at least {length - count} tokens with this tokenizer, more than the length "
                f"{length}: choose a greater length"
            )
        if isinstance(filler, str):
            before, after = self._split(count, depth)
        elif len(filler) >= count:
            place = round(depth * count)
            before, after = list(filler[:place]), list(filler[place:count])
        else:
            raise LengthError(f"{len(filler)} filler tokens cannot fill a passkey prompt that needs {count}: give more")
        return PasskeySample(
            prompt_ids=[*head, *before, *key_line, *after, *question],
            answer_ids=answer,
            key=key,
            distance=len(key_line) + len(after) + len(question),
        )

    def _split(self, count: int, depth: float) -> tuple[list[int], list[int]]:
        """`count` tokens of filler before and after the key sentence, parted at the end of a sentence."""
        ends = [0]
        while ends[-1] < count:
            ends.append(min(count, ends[-1] + len(self._sentence(len(ends) - 1, 0))))
        sentence = min(range(len(ends)), key=lambda index: abs(ends[index] - depth * count))
        return self.filler(ends[sentence], 0), self.filler(count - ends[sentence], sentence)

    def filler(self, count: int, start: int) -> list[int]:
        """`count` tokens of the template's filler from sentence number `start` on; the last one may be cut."""
        tokens: list[int] = []
        sentence = start
        while len(tokens) < count:
            tokens += self._sentence(sentence, start)
            sentence += 1
        return tokens[:count]

    def _sentence(self, index: int, start: int) -> list[int]:
        return (self._first if index == start else self._later)[index % len(FILLER)]


def random_key(rng: np.random.Generator) -> int:
    """A key of five digits, uniform in 10000..99999."""
    return int(rng.integers(SMALLEST_KEY, LARGEST_KEY + 1))


def passkey_sample(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    depth: float,
    key: int,
    filler: Filler = "template",
) -> PasskeySample:
    """A passkey prompt and its answer, `length` tokens together, BOS counted (see the module's head for the form).

    Args:
        tokenizer: any tokenizer; digits may be tokens of their own or merged.
        length: tokens of BOS, prompt and answer.
        depth: share of the filler before the key sentence, 0 to 1.
        key: the number to hide, 10000 to 99999.
        filler: `template`, or token ids of ordinary text, at least as many as fit (`length` is enough).

    Raises:
        LengthError: `length` is too short for the prompt, or `filler` too short for `length`.
    """
    return PasskeyTemplate(tokenizer).sample(length, depth, key, filler)
