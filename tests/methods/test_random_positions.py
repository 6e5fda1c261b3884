"""Randomised positions: sorted draws without replacement, every place alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.equation import Window
from longspan.errors import LengthError
from longspan.methods.position.random_positions import RandomPositions

WINDOW = Window(rotary_dim=8, original_length=16, target_length=128)


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 60), apart=st.integers(0, 500), seed=st.integers(0, 2**32))
def test_positions_rise_within_the_target(length: int, apart: int, seed: int) -> None:
    window = Window(rotary_dim=8, original_length=1, target_length=length + apart)
    found = RandomPositions().draw(length, window, np.random.default_rng(seed))
    assert found.positions.dtype == np.int64
    assert len(found.positions) == length
    assert (np.diff(found.positions) > 0).all()
    assert 0 <= found.positions[0] <= found.positions[-1] < length + apart
    assert found.tokens.tolist() == list(range(length))
    if apart == 0:
        assert found.positions.tolist() == list(range(length))


def test_every_place_is_taken_alike_and_an_eighth_of_neighbours_stay_neighbours() -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([RandomPositions().draw(16, WINDOW, rng).positions for _ in range(3000)])
    counts = np.bincount(draws.ravel(), minlength=128) / 3000
    assert np.abs(counts - 1 / 8).max() < 5 * math.sqrt(1 / 8 * 7 / 8 / 3000)
    # of 128 places the next one of a chosen place is chosen in 15 of 127 cases; the chosen last place has no next
    assert (np.diff(draws) == 1).mean() == pytest.approx(16 / 128, abs=0.01)


def test_one_draw_serves_a_batch_where_that_is_asked() -> None:
    assert RandomPositions(per="batch").shared()
    assert not RandomPositions().shared()


def test_a_window_longer_than_the_target_is_refused() -> None:
    with pytest.raises(LengthError, match="RandomPositions cannot place a window of 200 tokens"):
        RandomPositions().draw(200, WINDOW, np.random.default_rng(0))
