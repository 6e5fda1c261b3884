"""Pieces of a prompt as the tokens that they have in the middle of a text, so that prompts are exact to the token."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from longspan.data.tokenizer import encode

NEUTRAL = "a"
"""Text put in front while encoding, so that a piece gets the tokens it has in the middle of a text."""


class Pieces:
    """Cuts text into tokens of one tokenizer, piece by piece; what stands before is encoded once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._before: dict[str, list[int]] = {}

    def after(self, context: str, text: str) -> list[int]:
        """Tokens of `text` where `context` stands before it."""
        if context not in self._before:
            self._before[context] = encode(self.tokenizer, context)
        whole = encode(self.tokenizer, context + text)
        return whole[common_prefix(self._before[context], whole) :]

    def parted(self, text: str, rest: str, context: str = NEUTRAL) -> tuple[list[int], list[int]]:
        """Tokens of `text` followed by `rest`, after `context`, cut where `rest` begins to decide them."""
        whole = self.after(context, text + rest)
        cut = common_prefix(self.after(context, text), whole)
        return whole[:cut], whole[cut:]


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
