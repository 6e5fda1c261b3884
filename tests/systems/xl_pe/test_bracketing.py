"""BTG: how many orders it can make, and the best of them, by going through all permutations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from longspan.systems.xl_pe.bracketing import (
    INVERTED,
    STRAIGHT,
    Action,
    best_order,
    is_parsable,
    order_of,
    valid_actions,
)
from longspan.systems.xl_pe.ranks import FREE, ranks_of, score_order


@pytest.mark.parametrize(("length", "count"), [(1, 1), (2, 2), (3, 6), (4, 22), (5, 90), (6, 394), (7, 1806)])
def test_orders_that_btg_can_make_are_counted_by_the_large_schroeder_numbers(length: int, count: int) -> None:
    assert sum(is_parsable(order) for order in permutations(range(length))) == count


def test_the_two_orders_of_four_words_that_btg_cannot_make() -> None:
    bad = {order for order in permutations(range(4)) if not is_parsable(order)}
    assert bad == {(1, 3, 0, 2), (2, 0, 3, 1)}


def test_ties_and_free_words_leave_room_that_a_permutation_does_not() -> None:
    assert is_parsable([1, 3, 0, 2]) is False
    assert is_parsable([1, 2, 0, 2])
    assert is_parsable([1, 3, FREE, 2])
    assert is_parsable([])


def test_an_action_swaps_the_halves_after_their_insides_are_settled() -> None:
    actions = [Action(0, 1, 4, INVERTED), Action(1, 3, 4, STRAIGHT), Action(1, 2, 3, INVERTED)]
    assert order_of(actions, 4) == [2, 1, 3, 0]


def test_valid_actions_by_hand() -> None:
    valid = valid_actions(np.array([1, FREE, 0]))
    splits = {(b, e, "SI"[d], p) for b, e, d, p in zip(*(x.tolist() for x in np.nonzero(valid)), strict=True)}
    whole = {(0, 3, "I", 1), (0, 3, "I", 2)}
    parts = {(0, 2, d, 1) for d in "SI"} | {(1, 3, d, 2) for d in "SI"}
    assert splits == whole | parts


@pytest.mark.parametrize("seed", range(5))
def test_the_bottom_up_oracle_finds_the_best_of_all_orders(seed: int) -> None:
    ranks = np.random.default_rng(seed).integers(FREE, 6, size=6)
    reachable = [order for order in permutations(range(6)) if is_parsable(ranks_of(order))]
    best = max(score_order(order, ranks).tau for order in reachable)
    found = best_order(ranks.tolist())
    assert score_order(found, ranks).tau == best
    assert is_parsable(ranks_of(found))


def test_the_oracle_reaches_a_parsable_order_and_misses_the_other_by_one_inversion() -> None:
    assert ranks_of(best_order([3, 2, 0, 1])) == [3, 2, 0, 1]
    assert score_order(best_order([1, 3, 0, 2]), np.array([1, 3, 0, 2])).tau == 1 - 1 / 6
