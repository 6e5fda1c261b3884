from __future__ import annotations

import pytest
from oracle import CASES, relative, transformers_table

from longspan.equation import Window
from longspan.methods.frequency.llama3 import Llama3


@pytest.mark.parametrize("case", CASES)
def test_frequencies_equal_transformers_llama3(case: dict) -> None:
    window = Window(**case)
    table, _ = transformers_table("llama3", window, low_freq_factor=1.0, high_freq_factor=4.0)
    assert relative(Llama3().frequency(window), table) < 1e-6


def test_slowing_of_the_released_configuration_by_hand() -> None:
    window = Window(rotary_dim=128, base=5e5, original_length=8192, target_length=65536)
    slowed = (window.omega / Llama3().frequency(window)).tolist()
    assert slowed[:29] == [1] * 29
    assert slowed[29:35] == pytest.approx([1.2075, 1.5534, 2.0263, 2.6945, 3.6843, 5.2573], abs=5e-5)
    assert slowed[35:] == pytest.approx([8] * 29)
