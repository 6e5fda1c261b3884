from __future__ import annotations

import pytest
import torch

from longspan.equation import Window
from longspan.methods.scale.log_n import LogN

WINDOW = Window(rotary_dim=8, original_length=4096, target_length=32768)


def test_factors_by_hand() -> None:
    positions = torch.tensor([0, 4095, 8191, 16383, 32767])
    expected = [1, 1, 1.08333, 1.16667, 1.25]
    assert LogN().scale(WINDOW, positions).tolist() == pytest.approx(expected, abs=5e-6)


def test_without_the_clip_early_queries_are_softened() -> None:
    assert LogN(clip=False).scale(WINDOW, torch.tensor([63])).item() == pytest.approx(0.5)
