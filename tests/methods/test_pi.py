from __future__ import annotations

import pytest
import torch
from oracle import CASES, relative, transformers_table

from longspan.equation import Window
from longspan.methods.frequency.pi import Pi
from longspan.reference import reference_attention


@pytest.mark.parametrize("case", CASES)
def test_frequencies_equal_transformers_linear_scaling(case: dict) -> None:
    window = Window(**case)
    assert relative(Pi().frequency(window), transformers_table("linear", window)[0]) < 1e-6


def test_every_fourth_position_under_factor_four_is_plain_rope_at_every_position() -> None:
    window = Window(rotary_dim=8, original_length=8, target_length=32)
    q, k, v = (torch.randn(1, 1, 6, 8, dtype=torch.float64) for _ in range(3))
    places = torch.arange(6)
    plain = reference_attention(q, k, v, window=window, key_positions=places)
    squeezed = reference_attention(q, k, v, methods=[Pi()], window=window, key_positions=4 * places)
    assert torch.equal(plain, squeezed)


def test_a_factor_of_its_own_is_used_instead_of_the_windows() -> None:
    window = Window(rotary_dim=8, original_length=8, target_length=32)
    assert torch.equal(Pi(factor=2.0).frequency(window), window.omega / 2)
