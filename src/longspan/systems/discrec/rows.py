"""Items as rows of tokens, the samples that are learned, and the order in which they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from longspan.systems.discrec.codes import EOS, PAD, SemanticIds
from longspan.systems.discrec.interactions import Interactions


@dataclass(frozen=True, slots=True)
class Rows:
    """How a history becomes what the encoder reads, and an item what the decoder writes."""

    ids: SemanticIds
    history: int = 20
    """T: newest items that are read."""
    left_padding: bool = False
    """Pad in front; else between the last item and EOS, which stands in the last column either way."""

    def encoder(self, items: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " S"]:
        """S = T L + 1 tokens: items from oldest to newest, padding, EOS."""
        tokens = self.ids.tokens_of(items[-self.history :]).reshape(-1)
        row = np.full(self.history * self.ids.levels + 1, PAD, dtype=np.int64)
        start = len(row) - 1 - len(tokens) if self.left_padding else 0
        row[start : start + len(tokens)] = tokens
        row[-1] = EOS
        return row

    def labels(self, item: int) -> Int64[np.ndarray, " L+1"]:
        """The codes of an item, then EOS."""
        return np.append(self.ids.tokens_of(np.array([item])), EOS)


class Samples(Dataset[dict[str, Tensor]]):
    """One row for each (user, place): what the user took before, and what was taken there."""

    def __init__(self, interactions: Interactions, rows: Rows, places: Sequence[tuple[int, int]]) -> None:
        self.histories, self.rows, self.places = interactions.histories, rows, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        user, place = self.places[index]
        history = self.histories[user]
        tokens = torch.from_numpy(self.rows.encoder(history[:place]))
        labels = torch.from_numpy(self.rows.labels(int(history[place])))
        return {"input_ids": tokens, "attention_mask": (tokens != PAD).long(), "labels": labels}


class EpochBatches(Sampler[list[int]]):
    """Batches of every epoch in a row, each epoch in an order of its own that follows from the seed."""

    def __init__(self, samples: int, batch: int, epochs: int, seed: int) -> None:
        self.samples, self.batch, self.epochs, self.seed = samples, batch, epochs, seed

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch; its last one may be smaller."""
        return -(-self.samples // self.batch)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in range(self.epochs):
            order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
            for start in range(0, self.samples, self.batch):
                yield order[start : start + self.batch].tolist()
