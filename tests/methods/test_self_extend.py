from __future__ import annotations

import pytest
from distances import row, window_of

from longspan.errors import MethodError
from longspan.methods.bands.self_extend import SelfExtend

EXAMPLE = SelfExtend(group=4, neighbors=8)


def test_rows_by_hand() -> None:
    assert row(EXAMPLE, window_of(32), 16) == [10, 10, 10, 10, 9, 9, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    far = [distance for distance in (13, 12, 11, 10, 9, 8) for _ in range(4)]
    assert row(EXAMPLE, window_of(32), 31) == [*far, 7, 6, 5, 4, 3, 2, 1, 0]


def test_the_longest_input_inside_the_trained_distances() -> None:
    assert max(row(EXAMPLE, window_of(32), 103)) == 31
    assert max(row(EXAMPLE, window_of(32), 104)) == 32


def test_groups_of_one_are_rope() -> None:
    assert row(SelfExtend(group=1, neighbors=8), window_of(32), 20) == list(range(20, -1, -1))


@pytest.mark.parametrize(("target", "furthest"), [(64, 63), (128, 32), (192, 32), (512, 63)])
def test_sizes_that_are_not_given_keep_distances_within_half_of_the_window_or_else_all(
    target: int, furthest: int
) -> None:
    window = window_of(64, target)
    near, group = SelfExtend().sizes(window)
    assert near == 16
    assert near % group == 0
    assert max(row(SelfExtend(), window, target - 1)) <= furthest


def test_a_target_that_no_group_reaches_is_refused() -> None:
    with pytest.raises(MethodError, match="do not fit"):
        SelfExtend().bands(window_of(64, 4096))


@pytest.mark.parametrize("settings", [{"group": 0}, {"neighbors": 0}, {"group": 5, "neighbors": 8}])
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(MethodError):
        SelfExtend(**settings)
