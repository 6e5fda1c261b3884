from __future__ import annotations

import pytest

from longspan.equation import Window
from longspan.methods.frequency.base_change import BaseChange


@pytest.mark.parametrize(("rotary_dim", "slowed"), [(128, 47.0), (16, 30.7)])
def test_the_last_pair_is_slowed_by_the_base_not_by_the_factor(rotary_dim: int, slowed: float) -> None:
    window = Window(rotary_dim=rotary_dim, base=1e4, original_length=4096, target_length=32768)
    found = (window.omega / BaseChange(base=5e5).frequency(window))[-1].item()
    assert found == pytest.approx(slowed, abs=0.05)
    assert BaseChange(base=5e5).frequency(window)[0].item() == 1
