"""Cross-lingual positions of a sentence: the place of each sub-word in target order, and the controls of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import numpy as np

RankSource = Literal["parser", "identity", "random", "other", "oracle"]
"""Where ranks come from: the reorderer; the place itself; a random permutation; the reorderer's ranks of another
sentence with as many words; the alignment with the reference, which no translator can know (an upper bound)."""


def subword_ranks(order: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Rank of each sub-word: words are walked in target order, and their sub-words numbered from left to right.

    Args:
        order: source words in target order, a permutation.
        counts: sub-words of each source word.

    Returns:
        A permutation of 0 .. sum(counts) - 1, in source order.
    """
    starts = list(accumulate(counts, initial=0))
    ranks = [0] * starts[-1]
    place = 0
    for word in order:
        for number in range(counts[word]):
            ranks[starts[word] + number] = place + number
        place += counts[word]
    return ranks


def control_orders(orders: Sequence[Sequence[int]], source: RankSource, seed: int) -> list[list[int]]:
    """Orders in place of those of the reorderer; `parser` and `oracle` leave them as they are.

    For `other`, a sentence without a fellow of its length keeps its own order.
    """
    rng = np.random.default_rng(seed)
    if source == "identity":
        return [list(range(len(order))) for order in orders]
    if source == "random":
        return [rng.permutation(len(order)).tolist() for order in orders]
    if source == "other":
        return _exchanged(orders, rng)
    return [list(order) for order in orders]


def _exchanged(orders: Sequence[Sequence[int]], rng: np.random.Generator) -> list[list[int]]:
    """Each sentence gets the order of the next one of its length, in a random round."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number in rng.permutation(len(orders)):
        by_length[len(orders[number])].append(int(number))
    given: list[list[int]] = [[] for _ in orders]
    for numbers in by_length.values():
        for mine, theirs in zip(numbers, numbers[1:] + numbers[:1], strict=True):
            given[mine] = list(orders[theirs])
    return given
