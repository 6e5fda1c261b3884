from __future__ import annotations

import pytest
import torch
from oracle import CASES, relative, transformers_table

from longspan.equation import Window
from longspan.methods.frequency.yarn import Yarn

SMALL = Window(rotary_dim=16, original_length=256, target_length=1024)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("truncate", [True, False])
def test_index_ramp_and_temperature_equal_transformers(case: dict, truncate: bool) -> None:
    window = Window(**case)
    method = Yarn(truncate=truncate)
    table, root = transformers_table("yarn", window, truncate=truncate)
    assert relative(method.frequency(window), table) < 1e-6
    assert method.scale(window, torch.tensor([3])).item() == pytest.approx(root**2, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 1.23077, 1.60000, 2.28571, 4, 4, 4, 4]),
        ({"truncate": False}, [1, 1.24513, 1.80510, 3.28039, 4, 4, 4, 4]),
        ({"ramp": "turns"}, [1, 1.86039, 3.08281, 3.89138, 4, 4, 4, 4]),
        ({"ramp": "harmonic"}, [1, 1.75, 2.5, 3.25, 4, 4, 4, 4]),
    ],
)
def test_slowing_by_hand(settings: dict, expected: list[float]) -> None:
    assert (SMALL.omega / Yarn(**settings).frequency(SMALL)).tolist() == pytest.approx(expected, abs=5e-6)


def test_fast_pairs_stay_and_slow_pairs_are_interpolated() -> None:
    window = Window(rotary_dim=128, original_length=4096, target_length=32768)
    for ramp in ("index", "turns", "harmonic"):
        slowed = window.omega / Yarn(ramp=ramp).frequency(window)
        assert slowed[0].item() == 1
        assert slowed[-1].item() == pytest.approx(8)
        assert (slowed.diff() >= -1e-12).all()


def test_the_two_ramps_differ_as_far_as_the_sources_do() -> None:
    window = Window(rotary_dim=128, original_length=4096, target_length=32768)
    ratio = Yarn().frequency(window) / Yarn(ramp="turns").frequency(window)
    assert ratio.max().item() == pytest.approx(2.30, abs=0.01)
    assert int(ratio.argmax()) == 36
    assert int(((ratio - 1).abs() > 0.01).sum()) == 25


def test_temperature_by_hand() -> None:
    assert Yarn().scale(SMALL, torch.arange(2)).tolist() == pytest.approx([1.138629**2] * 2, rel=1e-6)
    assert Yarn(attention_factor=1.0).scale(SMALL, torch.arange(2)).tolist() == [1, 1]
