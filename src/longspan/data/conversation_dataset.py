"""Windows of conversations for instruction tuning: one conversation a row, or several that do not see each other.

Row i depends on (seed, i) and nothing else. Every epoch takes each conversation once, in an order of its own. In a
packed row `position_ids` start at 0 again with each conversation: without an attention mask transformers takes that for
the border of a document, on every mask that it builds, so attention stays within conversations. Positions that a
training method draws go to the rotary module alone, as `positions`: to the model their jumps would be borders too.
"""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from longspan.data.conversation_file import ConversationFile
from longspan.data.positions import IGNORED, Placer
from longspan.equation import Draw, plain_draw
from longspan.errors import DataError

Packing = Literal["none", "packed"]


@dataclass(frozen=True, eq=False)
class ConversationRows:
    """Which conversations stand in which row of an epoch, and how much of each."""

    file: ConversationFile
    length: int
    """Tokens that a row holds at most."""
    packing: Packing
    kept: np.ndarray
    """Tokens of each conversation that are used, int64; 0 where not even the first exchange fits in."""
    bins: list[list[int]]
    """Conversations of each row, before shuffling."""

    def __len__(self) -> int:
        return len(self.bins)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The rows of an epoch in the order in which they are trained on."""
        return _order(seed, epoch, len(self))

    def tokens_before(self, row: int, seed: int) -> int:
        """Tokens in the first `row` rows of a run, padding left out."""
        epochs, rest = divmod(row, len(self))
        return epochs * int(self._tokens.sum()) + int(self._tokens[self.order(seed, epochs)[:rest]].sum())

    @functools.cached_property
    def _tokens(self) -> np.ndarray:
        return np.array([self.kept[numbers].sum() for numbers in self.bins])

    @property
    def statistics(self) -> dict[str, Any]:
        """Counts for `data.json`."""
        whole = np.diff(self.file.offsets)
        return {
            "conversations": int((self.kept > 0).sum()),
            "conversations_cut": int(((self.kept > 0) & (self.kept < whole)).sum()),
            "conversations_left_out": int((self.kept == 0).sum()),
            "rows_per_epoch": len(self),
            "tokens_per_epoch": int(self._tokens.sum()),
        }


def arrange(file: ConversationFile, length: int, packing: Packing) -> ConversationRows:
    """Rows of at most `length` tokens; a conversation that is longer is cut at the end of a response.

    Raises:
        DataError: no first exchange of any conversation fits in.
    """
    kept = np.array([_kept(file.conversation(number)["turn"], length) for number in range(len(file))])
    if not kept.any():
        raise DataError(f"no conversation has a first exchange of at most {length} tokens: raise train_length")
    bins = pack(kept, length) if packing == "packed" else [[int(number)] for number in np.flatnonzero(kept)]
    return ConversationRows(file, length, packing, kept, bins)


class ConversationDataset(Dataset[dict[str, Tensor]]):
    """Rows of conversations; map-style. Tokens that are not to be learned have the label -100.

    Packing `none`: `input_ids`, `labels`, `attention_mask`, as long as the conversation; who makes a batch pads.
    Packing `packed`: `input_ids`, `labels`, `position_ids`, all [length]; what is left at the end of a row is a
    document of its own of which nothing is learned. With a position method also `positions`.
    """

    def __init__(self, rows: ConversationRows, seed: int, size: int, placer: Placer | None = None) -> None:
        """`size` rows, one epoch after the other; `placer` says where the tokens of each conversation stand."""
        self.rows, self.seed, self.size, self.placer = rows, seed, size, placer

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rows = self.rows
        epoch, place = divmod(index, len(rows))
        numbers = rows.bins[rows.order(self.seed, epoch)[place]]
        tokens = [rows.file.conversation(number)[: rows.kept[number]] for number in numbers]
        draws = self._draws(index, [conversation["turn"] for conversation in tokens])
        labels = [_labels(conversation, draw) for conversation, draw in zip(tokens, draws, strict=True)]
        packed = rows.packing == "packed"
        spare = rows.length - sum(map(len, tokens)) if packed else 0
        row = {
            "input_ids": _joined([conversation["id"] for conversation in tokens], np.zeros(spare)),
            "labels": _joined(labels, np.full(spare, IGNORED)),
        }
        if packed:
            row["position_ids"] = _joined([np.arange(len(conversation)) for conversation in tokens], np.arange(spare))
        else:
            row["attention_mask"] = torch.ones_like(row["input_ids"])
        if self.placer is not None:
            row["positions"] = _joined([draw.positions for draw in draws], np.arange(spare))
        return row

    def _draws(self, index: int, turns: list[np.ndarray]) -> list[Draw]:
        if self.placer is None:
            return [plain_draw(len(blocks)) for blocks in turns]
        return self.placer.draw_conversations([blocks.astype(np.int64) for blocks in turns], index)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    # a branch of its own: the numbers of epochs are numbers of rows too
    return np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(0,))).permutation(rows)


def pack(lengths: np.ndarray, room: int) -> list[list[int]]:
    """Numbers of the conversations in each row: the longest first, each where the least room is left (0: none).

    The rows depend on the lengths alone.
    """
    rows: list[list[int]] = []
    spare: list[tuple[int, int]] = []  # room left and number of the row, sorted
    for number in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[number])
        if size == 0:
            break
        place = bisect.bisect_left(spare, (size, 0))
        left, row = spare.pop(place) if place < len(spare) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        bisect.insort(spare, (left - size, row))
    return rows


def _kept(turns: np.ndarray, length: int) -> int:
    """Tokens of a conversation that stand in a row: all, or up to the last response that ends in it, or 0."""
    if len(turns) <= length:
        return len(turns)
    ends = np.flatnonzero(np.diff(turns)) + 1  # the first token of each block but the first
    responses = ends[turns[ends - 1] % 2 == 1]
    fitting = responses[responses <= length]
    return int(fitting[-1]) if len(fitting) else 0


def _labels(tokens: np.ndarray, draw: Draw) -> np.ndarray:
    labels = np.where(tokens["learned"], tokens["id"].astype(np.int64), IGNORED)
    labels[draw.unlearned] = IGNORED
    return labels


def _joined(parts: list[np.ndarray], rest: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([*parts, rest]).astype(np.int64))
