from __future__ import annotations

import pytest
import torch
from oracle import CASES, relative, transformers_table

from longspan.equation import Window
from longspan.methods.frequency.dynamic_ntk import DynamicNtk


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("growth", [1.5, 2, 8])
def test_frequencies_equal_transformers_dynamic(case: dict, growth: float) -> None:
    window = Window(**case)
    length = int(window.original_length * growth)
    table, _ = transformers_table("dynamic", window, length=length)
    assert relative(DynamicNtk().frequency(window.at(length)), table) < 1e-6


def test_slowing_by_hand() -> None:
    window = Window(rotary_dim=16, original_length=256, target_length=1024).at(512)
    slowed = (window.omega / DynamicNtk(factor=4.0).frequency(window)).tolist()
    expected = [1, 1.25850, 1.58382, 1.99324, 2.50848, 3.15693, 3.97299, 5]
    assert slowed == pytest.approx(expected, abs=5e-6)


def test_inputs_inside_the_trained_window_stay_untouched() -> None:
    window = Window(rotary_dim=16, original_length=256, target_length=1024)
    assert torch.equal(DynamicNtk().frequency(window.at(256)), window.omega)


def test_static_frequencies_are_those_of_the_length_named() -> None:
    window = Window(rotary_dim=16, original_length=256, target_length=1024)
    at_target = DynamicNtk().frequency(window.at(1024))
    assert torch.equal(DynamicNtk(static_for="target").frequency(window.at(5)), at_target)
    assert torch.equal(DynamicNtk(static_for=1024).frequency(window.at(5)), at_target)
    assert not DynamicNtk(static_for=1024).changes_with_length()
    assert DynamicNtk().changes_with_length()
