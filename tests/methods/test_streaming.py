from __future__ import annotations

import pytest
from distances import row, window_of

from longspan.errors import MethodError
from longspan.methods.bands.streaming import Streaming

WINDOW = window_of(8)


def test_rows_by_hand() -> None:
    method = Streaming(sinks=2)  # 6 recent ones
    assert row(method, WINDOW, 7) == [7, 6, 5, 4, 3, 2, 1, 0]  # the cache is just full
    assert row(method, WINDOW, 8) == [7, 6, None, 5, 4, 3, 2, 1, 0]
    assert row(method, WINDOW, 12) == [7, 6, None, None, None, None, None, 5, 4, 3, 2, 1, 0]


def test_no_distance_is_above_that_of_a_full_cache() -> None:
    for i in range(100):
        seen = [distance for distance in row(Streaming(sinks=3), WINDOW, i) if distance is not None]
        assert len(seen) == min(8, i + 1)
        assert sorted(seen) == list(range(len(seen)))


@pytest.mark.parametrize("settings", [{"sinks": -1}, {"recent": 0}])
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(MethodError):
        Streaming(**settings)


def test_sinks_that_fill_the_window_are_refused() -> None:
    with pytest.raises(MethodError, match="no room"):
        Streaming(sinks=8).bands(WINDOW)
