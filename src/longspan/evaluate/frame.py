"""The frame of a prompt in one tokenizer: instruction, context, question, lead, answer; exact to the token.

Every piece of the context begins with its newline, so pieces can stand in any order. What a task cannot fill with whole
pieces is filled with the noise sentences, the last of which is cut.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from longspan.data.passkey import PasskeyTemplate
from longspan.data.pieces import NEUTRAL, Pieces
from longspan.data.talk import chat_talk, plain_talk
from longspan.errors import LengthError
from longspan.evaluate.sample import Sample
from longspan.evaluate.words import paragraph


@dataclass(frozen=True, slots=True)
class Slot:
    """A prompt without its context."""

    opening: list[int]
    closing: list[int]
    answer: list[int]
    count: int
    """Tokens that the context must have."""


class Frame:
    """Makes prompts of one task for one tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        *,
        chat: bool = False,
        haystack: Sequence[int] | None = None,
    ) -> None:
        """Prompts of the task `name`.

        Args:
            chat: whether they go through the tokenizer's chat template.
            haystack: token ids of the text that needles are hidden in; None: made-up prose.

        Raises:
            DataError: `chat` without a chat template that can be used.
        """
        self.tokenizer, self.name, self.haystack = tokenizer, name, haystack
        self.talk = chat_talk(tokenizer) if chat else plain_talk(tokenizer)
        self.template = PasskeyTemplate(tokenizer, self.talk)
        self._pieces = Pieces(tokenizer)
        self._prose: dict[tuple[int, ...], _Prose] = {}

    def line(self, text: str) -> list[int]:
        """Tokens of `text` on a line of its own, the newline before it included."""
        return self._pieces.after(NEUTRAL, f"\n{text}")

    def piece(self, text: str) -> list[int]:
        """Tokens of `text` in the middle of a line."""
        return self._pieces.after(NEUTRAL, text)

    def slot(self, length: int, instruction: str, question: str, lead: str, answer: str, least: int = 0) -> Slot:
        """Everything but the context of a prompt of `length` tokens.

        Args:
            question: a line of its own.
            lead: words that the answer follows; in a chat they open the model's turn.
            answer: without the full stop that is put behind it, and that shows where the last value ends.
            least: tokens that the context needs.

        Raises:
            LengthError: `length` is too short.
        """
        opening = [*self.talk.opening_ids, *self._pieces.after(self.talk.opening, instruction)]
        closing, answer_ids = self._pieces.parted(f"\n{question}{self.talk.between}{lead}", f" {answer}.")
        count = length - len(opening) - len(closing) - len(answer_ids)
        if count < least:
            raise LengthError(
                f"a prompt of {self.name} takes at least {length - count + least} tokens with this tokenizer, more "
                f"than the length {length}: choose greater lengths"
            )
        return Slot(opening, closing, answer_ids, count)

    def finish(
        self,
        slot: Slot,
        context: list[int],
        references: Sequence[str],
        evidence: int | None,
        candidates: Sequence[str] = (),
    ) -> Sample:
        """The prompt with its context.

        Args:
            evidence: where in it the first thing stands that the answer needs.
            candidates: what an answer may name; nothing else counts. None: whatever looks like a value.
        """
        assert len(context) == slot.count
        prompt = [*slot.opening, *context, *slot.closing]
        distance = None if evidence is None else len(prompt) - len(slot.opening) - evidence
        return Sample(
            prompt_ids=prompt,
            answer_ids=slot.answer,
            references=tuple(references),
            among=frozenset(word.lower() for word in candidates) or None,
            distance=distance,
        )

    @functools.cached_property
    def ordinary(self) -> np.ndarray:
        """Ids of the vocabulary that are no special tokens."""
        return np.setdiff1d(np.arange(len(self.tokenizer)), self.tokenizer.all_special_ids)

    @functools.cached_property
    def _full_stops(self) -> frozenset[int]:
        """Tokens that end a sentence."""
        return frozenset(number for piece, number in self.tokenizer.get_vocab().items() if piece.endswith((".", "\n")))

    def ends(self, tokens: Sequence[int]) -> list[int]:
        """Places in `tokens` where a line can be put in: behind each sentence, at the beginning and at the end."""
        inside = [place for place, token in enumerate(tokens[:-1], start=1) if token in self._full_stops]
        return sorted({0, *inside, len(tokens)})

    @staticmethod
    def insert(hay: list[int], lines: Sequence[list[int]], places: Sequence[int]) -> tuple[list[int], list[int]]:
        """`hay` with each of `lines` put in before its token number `places[i]`; and where each line then begins."""
        context: list[int] = []
        starts = [0] * len(lines)
        done = 0
        for number in sorted(range(len(lines)), key=lambda number: places[number]):
            context += hay[done : places[number]]
            done = places[number]
            starts[number] = len(context)
            context += lines[number]
        return context + hay[done:], starts

    @functools.cached_property
    def newline(self) -> list[int]:
        """Tokens of a newline."""
        return self._pieces.after(NEUTRAL, "\n")

    def noise(self, count: int) -> list[int]:
        """`count` tokens of the passkey's filler sentences, from the newline before them on; the last one is cut."""
        return [*self.newline, *self.template.filler(count, 0)][:count]

    def text(self, count: int, rng: np.random.Generator) -> list[int]:
        """`count` tokens of the user's text from a random place on, or of made-up prose: a line of their own.

        The draw of a shorter stretch is the beginning of the draw of a longer one, for the same state of `rng`.

        Raises:
            LengthError: the user's text is too short.
        """
        needed = max(0, count - len(self.newline))
        if self.haystack is None:
            return [*self.newline, *self._made_up(needed, rng)][:count]
        if len(self.haystack) < needed:
            raise LengthError(
                f"the haystack has {len(self.haystack)} tokens, and {self.name} needs {needed}: name more text, or "
                "choose shorter lengths"
            )
        # the place is a share of the text, and stretches run on from its start: equal beginnings at all lengths
        start = int(rng.random() * len(self.haystack))
        stretch = list(map(int, self.haystack[start : start + needed]))
        stretch += map(int, self.haystack[: needed - len(stretch)])
        return [*self.newline, *stretch][:count]

    def _made_up(self, count: int, rng: np.random.Generator) -> list[int]:
        key = tuple(int(number) for number in rng.integers(1 << 30, size=4))
        if key not in self._prose:
            self._prose[key] = _Prose(self._pieces, np.random.default_rng(key))
        return self._prose[key].first(count)


class _Prose:
    """Tokens of one endless made-up text."""

    def __init__(self, pieces: Pieces, rng: np.random.Generator) -> None:
        self._pieces, self._rng = pieces, rng
        self._tokens: list[int] = []

    def first(self, count: int) -> list[int]:
        while len(self._tokens) < count:
            context = f"{NEUTRAL}\n" if not self._tokens else NEUTRAL
            self._tokens += self._pieces.after(context, ("\n" if self._tokens else "") + paragraph(self._rng))
        return self._tokens[:count]
