"""What an alignment says about the order of source words, and how well an order agrees with it.

Two readings of an alignment, each after the program that has it. Training needs words compared by their sets of
targets (google/topdown-btg-preordering); evaluation takes their merged spans (neubig/lader), where every alignment
gives ranks, so that all sentences can be scored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Int64

from longspan.systems.xl_pe.alignment import Alignment

FREE = -1
"""The class of a word without a link: it may stand anywhere."""


def ranks_of(order: Sequence[int]) -> list[int]:
    """The place of each word in `order`: rank[order[k]] = k. The inverse permutation, not the order itself."""
    ranks = [0] * len(order)
    for place, word in enumerate(order):
        ranks[word] = place
    return ranks


def order_classes(alignment: Alignment) -> Int64[np.ndarray, " n"] | None:
    """Classes of the source words, numbered in target order; FREE for words without a link.

    Word a goes no later than b if no target of a alone stands after a target of b, and none of b alone before one of
    a; words that go no later than each other share a class. None if two words cannot be compared.
    """
    targets = alignment.targets()
    groups: list[list[int]] = []
    for word, mine in enumerate(targets):
        if not mine:
            continue
        for place, group in enumerate(groups):
            theirs = targets[group[0]]
            before, after = _no_later(mine, theirs), _no_later(theirs, mine)
            if not before and not after:
                return None
            if before and after:
                group.append(word)
                break
            if before:
                groups.insert(place, [word])
                break
        else:
            groups.append([word])
    classes = np.full(alignment.source_length, FREE, dtype=np.int64)
    for number, group in enumerate(groups):
        classes[group] = number
    return classes


def _no_later(first: set[int], second: set[int]) -> bool:
    only_first, only_second = first - second, second - first
    return (not only_first or max(only_first) <= min(second)) and (not only_second or max(first) <= min(only_second))


def span_ranks(alignment: Alignment, *, unlinked: Literal["free", "right"] = "free") -> Int64[np.ndarray, " n"]:
    """Ranks of the source words by the spans of their targets; spans that overlap are one. Every alignment has them.

    Args:
        unlinked: words without a link are FREE, or take the rank of the next word that has one (the last ones that
            of the word before).
    """
    targets = alignment.targets()
    starts: list[int] = []
    reach = -1
    for low, high in sorted((min(found), max(found)) for found in targets if found):
        if low > reach:
            starts.append(low)
        reach = max(reach, high)
    ranks = np.array([bisect_right(starts, min(found)) - 1 if found else FREE for found in targets], dtype=np.int64)
    known = np.flatnonzero(ranks != FREE)
    if unlinked == "right" and len(known):
        donors = np.minimum(np.searchsorted(known, np.arange(len(ranks))), len(known) - 1)
        ranks = ranks[known[donors]]
    return ranks


@dataclass(frozen=True, slots=True)
class OrderScore:
    """Agreement of an order with gold ranks, each number between 0 and 1 (best)."""

    tau: float
    """1 - inversions / pairs; a tie is no inversion. From 0 to 1, as in work on reordering."""
    fuzzy_reordering: float
    """Share of neighbours, both ends counted, that follow each other in gold as well."""
    complete_match: bool
    """No inversion at all."""

    @property
    def kendall(self) -> float:
        """Kendall's tau between -1 (reversed) and 1."""
        return 2 * self.tau - 1


def chunk_loss(ranks: Sequence[int], last: int) -> int:
    """How many of the n + 1 neighbours, both ends counted, do not follow each other in ranks read in target order.

    Args:
        last: the highest rank there is.
    """
    return sum(after not in (before, before + 1) for before, after in pairwise([-1, *ranks, last + 1]))


def score_order(order: Sequence[int], gold: Int64[np.ndarray, " n"]) -> OrderScore:
    """Score `order`, the source indices in target order, against gold ranks or classes; FREE words are left out.

    Source: neubig/lader (the measures), evaluate_preordering.py of google/topdown-btg-preordering (free words).
    """
    placed = gold[[word for word in order if gold[word] != FREE]]
    if len(placed) < 2:
        return OrderScore(1.0, 1.0, True)
    inversions = int(np.triu(placed[:, None] > placed[None, :]).sum())
    tau = 1.0 - inversions / (len(placed) * (len(placed) - 1) // 2)
    fuzzy = 1.0 - chunk_loss(placed.tolist(), int(placed.max())) / (len(placed) + 1)
    return OrderScore(tau, fuzzy, inversions == 0)
