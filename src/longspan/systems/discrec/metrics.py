"""Recall and NDCG of ranked lists with one right answer each.

Formula   Recall@k = share of users whose target stands among the first k;  NDCG@k = mean of 1 / log2(1 + rank) there
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64, Int64

Ranks = Int64[np.ndarray, " users"]
"""Where the target of each user stands, from 1; 0: nowhere."""


def ranks_of(ranked: Int64[np.ndarray, "users W"], targets: Int64[np.ndarray, " users"]) -> Ranks:
    """Ranks of `targets` in lists without repetition. Targets are groups of items: one that collides is a hit."""
    hit = ranked == targets[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)


def recall(ranks: Ranks, k: int) -> Float64[np.ndarray, " users"]:
    """1 for each user whose target is among the first k, else 0."""
    return ((ranks >= 1) & (ranks <= k)).astype(np.float64)


def ndcg(ranks: Ranks, k: int) -> Float64[np.ndarray, " users"]:
    """The same, worth less the lower it stands: 1, 0.63, 0.5, ..."""
    return recall(ranks, k) / np.log2(np.maximum(ranks, 1) + 1)


METRICS: Mapping[str, Callable[[Ranks], Float64[np.ndarray, " users"]]] = {
    "recall@5": lambda ranks: recall(ranks, 5),
    "recall@10": lambda ranks: recall(ranks, 10),
    "ndcg@5": lambda ranks: ndcg(ranks, 5),
    "ndcg@10": lambda ranks: ndcg(ranks, 10),
}
"""What is measured, user by user."""
