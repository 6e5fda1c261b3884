from __future__ import annotations

import pytest
from distances import row, window_of

from longspan.errors import MethodError
from longspan.methods.bands.re_rope import ReRope

WINDOW = window_of(32)


def test_rows_by_hand() -> None:
    assert row(ReRope(window=4), WINDOW, 9) == [4, 4, 4, 4, 4, 4, 3, 2, 1, 0]
    assert row(ReRope(window=4, leak=2.0), WINDOW, 9) == [6.5, 6, 5.5, 5, 4.5, 4, 3, 2, 1, 0]


def test_a_leak_of_one_is_rope_and_a_large_one_rerope() -> None:
    assert row(ReRope(window=4, leak=1.0), WINDOW, 20) == pytest.approx(list(range(20, -1, -1)))
    assert row(ReRope(window=4, leak=1e12), WINDOW, 20) == pytest.approx(row(ReRope(window=4), WINDOW, 20))


def test_the_window_is_an_eighth_of_the_trained_one() -> None:
    assert max(row(ReRope(), window_of(4096), 600)) == 512


@pytest.mark.parametrize("settings", [{"window": 0}, {"leak": 0.5}])
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(MethodError):
        ReRope(**settings)
