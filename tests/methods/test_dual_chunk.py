from __future__ import annotations

import pytest
from distances import row, window_of

from longspan.errors import MethodError
from longspan.methods.bands.dual_chunk import DualChunk


def test_rows_by_hand() -> None:
    window = window_of(16)  # c 12, w 2, s 10
    assert row(DualChunk(), window, 10) == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert row(DualChunk(), window, 13) == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 3, 2, 1, 0]
    assert row(DualChunk(), window, 25) == [*range(12, 2, -1), *range(12, 2, -1), 5, 4, 3, 2, 1, 0]


def test_near_distances_are_exact_across_borders_and_none_is_above_the_chunk() -> None:
    window = window_of(64)
    for i in range(300):
        found = row(DualChunk(), window, i)
        assert found[::-1][:9] == list(range(min(9, i + 1)))  # w = 8
        assert max(found) <= 48


@pytest.mark.parametrize("settings", [{"local": 0}, {"chunk": 4, "local": 4}])
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(MethodError):
        DualChunk(**settings)


def test_a_window_too_short_for_chunks_is_refused() -> None:
    with pytest.raises(MethodError, match="set both"):
        DualChunk().bands(window_of(1))
