"""Items as rows of tokens, and the samples that are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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
        return self.encoders(items, np.array([0]), np.array([len(items)]))[0]

    def encoders(
        self, items: Int64[np.ndarray, " n"], starts: Int64[np.ndarray, " B"], stops: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, "B S"]:
        """The same for several histories, each the items from its start up to its stop."""
        starts = np.maximum(starts, stops - self.history)
        lengths = (stops - starts)[:, None]
        place = np.arange(self.history) - (self.history - lengths if self.left_padding else 0)
        taken = (place >= 0) & (place < lengths)
        found = items[np.where(taken, starts[:, None] + place, 0)]
        tokens = np.where(taken[..., None], self.ids.tokens_of(found), PAD).reshape(len(starts), -1)
        return np.append(tokens, np.full((len(starts), 1), EOS), axis=1)

    def labels(self, items: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, "B L+1"]:
        """The codes of each item, then EOS."""
        return np.append(self.ids.tokens_of(items), np.full((len(items), 1), EOS), axis=1)


class Samples(Dataset[dict[str, Tensor]]):
    """One row for each (user, place): what the user took before, and what was taken there."""

    def __init__(self, interactions: Interactions, rows: Rows, places: Sequence[tuple[int, int]]) -> None:
        self.rows = rows
        self.items = np.concatenate(interactions.histories)  # all events, user by user
        begins = np.cumsum([0, *map(len, interactions.histories[:-1])])
        users, offsets = np.array(places, dtype=np.int64).reshape(-1, 2).T
        self.starts, self.targets = begins[users], begins[users] + offsets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[0] for name, tensor in self.batch([index]).items()}

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Several samples at once, in much less time than one by one."""
        chosen = np.asarray(indices)
        tokens = torch.from_numpy(self.rows.encoders(self.items, self.starts[chosen], self.targets[chosen]))
        labels = torch.from_numpy(self.rows.labels(self.items[self.targets[chosen]]))
        return {"input_ids": tokens, "attention_mask": (tokens != PAD).long(), "labels": labels}

    def loader(self, **settings: Any) -> DataLoader[dict[str, Tensor]]:
        """A loader of batches made by `batch`."""
        return DataLoader(range(len(self)), collate_fn=self.batch, **settings)  # type: ignore[arg-type]
