"""Bracketing transduction grammar (BTG): orders made by splitting spans in two and keeping or swapping the halves.

Source: Wu 1997, Stochastic inversion transduction grammars; the constraint on actions is that of Nakagawa 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from longspan.systems.xl_pe.ranks import FREE

STRAIGHT, INVERTED = 0, 1


@dataclass(frozen=True, slots=True)
class Action:
    """The span from `begin` to `end` (exclusive) is split in front of `pivot`; inverted, its halves are swapped."""

    begin: int
    pivot: int
    end: int
    direction: int


def order_of(actions: Sequence[Action], length: int) -> list[int]:
    """Source indices in target order, of a derivation whose actions are given from the top down."""
    order = list(range(length))
    for action in reversed(actions):  # what lies inside a span is settled before the span is swapped
        if action.direction == INVERTED:
            left, right = order[action.begin : action.pivot], order[action.pivot : action.end]
            order[action.begin : action.end] = right + left
    return order


def span_extremes(classes: Int64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest class within each span (begin, end), both [n + 1, n + 1]; free words are in nobody's way.

    A span without a class has a lowest that is above and a highest that is below all others.
    """
    length, most = len(classes), np.iinfo(np.int64).max
    lowest = np.full((length + 1, length + 1), most)
    highest = np.full((length + 1, length + 1), FREE)
    for begin in range(length):
        tail = classes[begin:]
        lowest[begin, begin + 1 :] = np.minimum.accumulate(np.where(tail == FREE, most, tail))
        highest[begin, begin + 1 :] = np.maximum.accumulate(tail)
    return lowest, highest


def valid_actions(classes: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, "begin end direction pivot"]:
    """Whether an action keeps to the classes: one half wholly no later than the other, [n, n + 1, 2, n + 1]."""
    length = len(classes)
    lowest, highest = span_extremes(classes)
    begin, end, pivot = np.ogrid[:length, : length + 1, : length + 1]
    inside = (begin < pivot) & (pivot < end)
    straight = inside & (highest[begin, pivot] <= lowest[pivot, end])
    inverted = inside & (highest[pivot, end] <= lowest[begin, pivot])
    return np.stack((straight, inverted), axis=2)


def is_parsable(classes: Sequence[int] | np.ndarray) -> bool:
    """Whether some derivation keeps to the classes (a permutation, or one with ties and free words).

    Any valid split will do: a derivation of the whole, cut down to a span, is one of the span.
    """
    valid = np.logical_or.reduce(valid_actions(np.asarray(classes, dtype=np.int64)), axis=2)
    spans = [(0, len(classes))]
    while spans:
        begin, end = spans.pop()
        if end - begin < 2:
            continue
        pivots = np.flatnonzero(valid[begin, end])
        if not len(pivots):
            return False
        spans += [(begin, int(pivots[0])), (int(pivots[0]), end)]
    return True


def best_order(ranks: Sequence[int]) -> list[int]:
    """The order with fewest inversions of `ranks` among all that BTG can make, found bottom-up over all spans.

    What a parser can reach at most. Ranks may have ties; FREE words agree with every order. O(n^3).
    """
    values = np.asarray(ranks)
    length = len(values)
    known = values != FREE
    both = known[:, None] & known[None, :]
    later = _table((values[:, None] > values[None, :]) & both)  # inversions if the first of two words stays in front
    earlier = _table((values[:, None] < values[None, :]) & both)
    cost = np.zeros((length + 1, length + 1))
    choice: dict[tuple[int, int], Action] = {}
    for size in range(2, length + 1):
        for begin in range(length - size + 1):
            end = begin + size
            pivots = np.arange(begin + 1, end)
            inner = cost[begin, pivots] + cost[pivots, end]
            across = np.stack([_block(table, begin, pivots, end) for table in (later, earlier)])
            direction, place = np.unravel_index(np.argmin(inner + across), across.shape)
            cost[begin, end] = (inner + across)[direction, place]
            choice[begin, end] = Action(begin, int(pivots[place]), end, int(direction))
    return order_of(_derivation(choice, length), length)


def _table(pairs: Bool[np.ndarray, "n n"]) -> Int64[np.ndarray, "n+1 n+1"]:
    """Sums of `pairs` over all rows and columns before a place."""
    return np.pad(pairs.cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _block(table: np.ndarray, begin: int, pivots: np.ndarray, end: int) -> np.ndarray:
    """Pairs of a word in begin .. pivot and one in pivot .. end."""
    return table[pivots, end] - table[pivots, pivots] - table[begin, end] + table[begin, pivots]


def _derivation(choice: dict[tuple[int, int], Action], length: int) -> list[Action]:
    """The actions chosen for the spans that follow from the whole, from the top down."""
    actions, spans = [], [(0, length)]
    while spans:
        begin, end = spans.pop()
        if end - begin > 1:
            action = choice[begin, end]
            actions.append(action)
            spans += [(begin, action.pivot), (action.pivot, end)]
    return actions
