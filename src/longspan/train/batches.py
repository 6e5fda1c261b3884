"""Batches of samples whose order follows from the seed and the epoch alone, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

GROUPED = 50
"""Batches that are sorted by length together."""


class EpochBatches(Sampler[list[int]]):
    """Batches of every epoch in a row, each epoch in an order of its own; its last batch may be smaller."""

    def __init__(self, samples: int, batch: int, epochs: int, seed: int, lengths: Sequence[int] | None = None) -> None:
        """Orders follow from `seed`. Where `lengths` are given, a batch has samples of about the same length."""
        self.samples, self.batch, self.epochs, self.seed = samples, batch, epochs, seed
        self.lengths = None if lengths is None else np.asarray(lengths)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-self.samples // self.batch)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in range(self.epochs):
            rng = np.random.default_rng([self.seed, epoch])
            order = rng.permutation(self.samples)
            if self.lengths is not None:
                order = self._grouped(order)
            batches = [order[start : start + self.batch] for start in range(0, self.samples, self.batch)]
            places = range(len(batches)) if self.lengths is None else rng.permutation(len(batches))
            for place in places:
                yield batches[place].tolist()

    def _grouped(self, order: np.ndarray) -> np.ndarray:
        """Samples sorted by length, so many batches at a time: `places` then mixes short and long batches."""
        assert self.lengths is not None
        cuts = range(GROUPED * self.batch, self.samples, GROUPED * self.batch)
        parts = np.split(order, list(cuts))
        return np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
