from __future__ import annotations

import pytest
from distances import row, window_of

from longspan.errors import MethodError
from longspan.methods.bands.lm_infinite import LmInfinite

WINDOW = window_of(8)


def test_rows_by_hand() -> None:
    method = LmInfinite(sinks=2)
    assert row(method, WINDOW, 7) == [7, 6, 5, 4, 3, 2, 1, 0]  # all within local
    assert row(method, WINDOW, 9) == [8, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert row(method, WINDOW, 11) == [8, 8, None, None, 7, 6, 5, 4, 3, 2, 1, 0]


def test_far_sinks_do_not_move() -> None:
    method = LmInfinite(sinks=3, local=4, limit=6)
    assert {tuple(row(method, WINDOW, i)[:3]) for i in range(8, 100)} == {(6, 6, 6)}


def test_without_sinks_only_the_window_is_seen() -> None:
    assert row(LmInfinite(sinks=0, local=3), WINDOW, 6) == [None, None, None, None, 2, 1, 0]


@pytest.mark.parametrize("settings", [{"sinks": -1}, {"local": 0}, {"limit": 0}])
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(MethodError):
        LmInfinite(**settings)
