"""The one table of tolerances: how far a fast path may be from the reference, by dtype; and how tests close over it."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 4e-2}
"""Largest difference allowed, relative to the largest absolute value of what is expected."""

LOGITS = 1e-4
"""Logits of a whole float32 model, relative to their spread."""


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest absolute value expected."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def logit_distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference of logits, relative to the standard deviation of those expected."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.std())
