from __future__ import annotations

import pytest
from oracle import relative, transformers_table

from longspan.equation import Window
from longspan.errors import MethodError
from longspan.methods.frequency.ntk import Ntk, raised_base


def test_raised_base_by_hand() -> None:
    assert raised_base(1e4, 8.0, 128) == pytest.approx(82684.62, rel=1e-7)
    assert raised_base(1e4, 4.0, 16) == pytest.approx(48760.546, rel=1e-7)


def test_the_first_pair_stays_and_the_last_is_slowed_by_the_factor() -> None:
    window = Window(rotary_dim=16, original_length=256, target_length=1024)
    slowed = (window.omega / Ntk().frequency(window)).tolist()
    expected = [1, 1.21901, 1.48599, 1.81145, 2.20818, 2.69180, 3.28134, 4]
    assert slowed == pytest.approx(expected, abs=5e-6)


def test_equals_transformers_dynamic_with_factor_one_at_eight_times_the_length() -> None:
    window = Window(rotary_dim=128, original_length=4096, target_length=32768)
    table, _ = transformers_table("dynamic", window, length=32768, factor=1.0)
    assert relative(Ntk().frequency(window), table) < 1e-6


def test_a_single_pair_is_refused() -> None:
    with pytest.raises(MethodError, match="at least 2 pairs"):
        Ntk().frequency(Window(rotary_dim=2, original_length=8, target_length=16))
