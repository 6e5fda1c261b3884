"""Order classes, ranks and scores, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.systems.xl_pe.alignment import Alignment
from longspan.systems.xl_pe.ranks import FREE, chunk_loss, order_classes, ranks_of, score_order, span_ranks


def links(*targets: set[int]) -> Alignment:
    """An alignment by the targets of each source word."""
    found = frozenset((source, target) for source, mine in enumerate(targets) for target in mine)
    return Alignment(len(targets), 1 + max((target for _, target in found), default=0), found)


def test_the_rank_is_the_inverse_of_the_order_and_differs_from_it_for_a_cycle_of_three() -> None:
    order = [1, 2, 0]
    assert ranks_of(order) == [2, 0, 1]
    assert ranks_of(order) != order


@given(st.permutations(range(8)))
def test_ranks_undo_an_order(order: list[int]) -> None:
    assert [order[rank] for rank in ranks_of(order)] == list(range(8))


@pytest.mark.parametrize(
    ("targets", "classes"),
    [
        (({1}, {0}), [1, 0]),
        (({2}, set(), {0}), [1, FREE, 0]),
        (({1}, {1}, {0}), [1, 1, 0]),  # the same targets: one class
        (({0, 1}, {1, 2}), [0, 1]),  # 0 of the first alone stands before, 2 of the second alone after
        (({0, 2}, {1}), None),  # 2 after 1, and 1 after 0
        (({0, 2}, {1, 2}), None),  # 2, which they share, stands after the 1 of the second alone
    ],
)
def test_words_are_compared_by_their_sets_of_targets(targets: tuple[set[int], ...], classes: list[int] | None) -> None:
    found = order_classes(links(*targets))
    assert (None if found is None else found.tolist()) == classes


@pytest.mark.parametrize(
    ("targets", "free", "right"),
    [
        (({2}, {0}, {1}), [2, 0, 1], [2, 0, 1]),
        (({0, 2}, {1}, {3}), [0, 0, 1], [0, 0, 1]),  # 0 .. 2 and 1 overlap
        ((set(), {1}, {0}, set()), [FREE, 1, 0, FREE], [1, 1, 0, 0]),  # the last one takes its left neighbour's
        ((set(), set()), [FREE, FREE], [FREE, FREE]),
    ],
)
def test_spans_that_overlap_are_one_rank(targets: tuple[set[int], ...], free: list[int], right: list[int]) -> None:
    assert span_ranks(links(*targets)).tolist() == free
    assert span_ranks(links(*targets), unlinked="right").tolist() == right


def test_scores_by_hand() -> None:
    gold = np.array([3, 0, 1, 2])
    monotone = score_order(range(4), gold)  # ranks read 3 0 1 2: three inversions of six pairs
    assert monotone.tau == 0.5
    assert monotone.kendall == 0.0
    assert monotone.fuzzy_reordering == 1 - 3 / 5  # start-3, 3-0 and 2-end are broken, 0-1 and 1-2 are not
    assert not monotone.complete_match
    assert chunk_loss([3, 0, 1, 2], last=3) == 3


def test_the_gold_order_is_perfect_and_the_reversed_one_of_a_monotone_sentence_worst() -> None:
    gold = np.array([2, FREE, 0, 1])
    best = score_order([2, 1, 3, 0], gold)
    assert (best.tau, best.fuzzy_reordering, best.complete_match) == (1.0, 1.0, True)
    worst = score_order([3, 2, 1, 0], np.arange(4))
    assert (worst.tau, worst.kendall) == (0.0, -1.0)


def test_a_tie_is_no_inversion_and_free_words_do_not_count() -> None:
    assert score_order([1, 0], np.array([0, 0])).complete_match
    assert score_order([2, 1, 0], np.array([0, FREE, FREE])).tau == 1.0
