"""Sentence pairs as rows of a batch: sub-words, their ranks, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from longspan.data.positions import IGNORED
from longspan.data.tokenizer import encode
from longspan.errors import DataError
from longspan.systems.xl_pe.alignment import Words, read_sentences
from longspan.systems.xl_pe.config import SplitSettings
from longspan.systems.xl_pe.positions import subword_ranks

Pair = tuple[Words, Words]
Row = dict[str, Tensor]


def read_split(settings: SplitSettings) -> list[Pair]:
    """The sentence pairs of a split.

    Raises:
        DataError: a file cannot be read, a sentence has no words, or the sides differ in length.
    """
    source, target = read_sentences(settings.source), read_sentences(settings.target)
    if len(source) != len(target):
        raise DataError(
            f"{settings.source} has {len(source)} lines and {settings.target} has {len(target)}: give one a pair"
        )
    return list(zip(source, target, strict=True))


class SubwordEncoder:
    """Cuts sentences into sub-words, each word by itself, so that a word's sub-words stay together in every order."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def words(self, words: Words) -> list[list[int]]:
        """The sub-words of each word."""
        for word in words:
            if word not in self._known:
                self._known[word] = encode(self.tokenizer, f" {word}")
        return [self._known[word] for word in words]

    def source(self, words: Words, order: Sequence[int]) -> Row:
        """`input_ids` with the end token, and `xl_positions`: ranks by `order`, the end token's its own place."""
        cut = self.words(words)
        ids = [number for word in cut for number in word]
        ranks = subword_ranks(order, [len(word) for word in cut])
        return {
            "input_ids": torch.tensor([*ids, self.tokenizer.eos_token_id]),
            "xl_positions": torch.tensor([*ranks, len(ids)]),
        }

    def pair(self, pair: Pair, order: Sequence[int]) -> Row:
        """`source` of the first sentence, and the second as `labels` with the end token."""
        target = [number for word in self.words(pair[1]) for number in word]
        return {**self.source(pair[0], order), "labels": torch.tensor([*target, self.tokenizer.eos_token_id])}

    def text(self, ids: Tensor) -> str:
        """The sentence that sub-words spell, on one line, its words parted by single blanks."""
        return " ".join(self.tokenizer.decode(ids, skip_special_tokens=True).split())


@dataclass(frozen=True, slots=True)
class PadRows:
    """Rows as a batch: tensors [rows, length of the longest]."""

    pad: int
    """The token that fills up; it starts the decoder's input as well, as in Marian."""

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Padding keeps its own place as its rank, and no label of it is learned."""
        ids = pad_sequence([row["input_ids"] for row in rows], batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        places = torch.arange(ids.shape[1]).expand(len(rows), -1)
        real = places < lengths[:, None]
        ranks = places.clone()
        ranks[real] = torch.cat([row["xl_positions"] for row in rows])
        batch = {"input_ids": ids, "attention_mask": real.long(), "xl_positions": ranks}
        if "labels" in rows[0]:
            labels = pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=IGNORED)
            inputs = labels.roll(1, dims=1)
            inputs[:, 0] = self.pad
            batch |= {"labels": labels, "decoder_input_ids": inputs.masked_fill(inputs == IGNORED, self.pad)}
        return batch


def fits(row: Row, longest: int) -> bool:
    """Whether both sides of a row fit a window of `longest` tokens."""
    return max(len(values) for values in row.values()) <= longest
