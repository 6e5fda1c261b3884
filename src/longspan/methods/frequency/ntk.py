"""NTK-aware scaling: raise the base so that the slowest pair is interpolated fully and the fastest not at all.

Formula   base' = base * s^(R/(R-2)), omega'_j = base'^(-2j/R): pair j is slowed by s^(2j/(R-2))
Source    arXiv:2309.00071 sec. 3.1, after a post by bloc97
Differs   the usable length is less than s * original_length, since middle pairs are slowed too little: choose a
          larger s than you need
Checked   numbers worked by hand; transformers' "dynamic" with factor 1 at length s * original_length
Training  none, or fine-tune
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Frequency, Window
from longspan.errors import MethodError
from longspan.settings import require


def raised_base(base: float, scale: float, rotary_dim: int) -> float:
    """The base that slows the last of R/2 pairs by exactly `scale`.

    Raises:
        MethodError: with one pair there is no last pair beside the first.
    """
    if rotary_dim <= 2:
        raise MethodError(f"NTK scaling needs at least 2 pairs, so rotary_dim above 2, not {rotary_dim}")
    return base * scale ** (rotary_dim / (rotary_dim - 2))


def frequencies_of_base(base: float, rotary_dim: int) -> Float64[Tensor, " F"]:
    """RoPE's frequencies under another base."""
    return base ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ntk(Frequency):
    """NTK-aware interpolation with a fixed factor."""

    scales_window: ClassVar[bool] = True

    factor: float | None = None
    """s; None takes target_length / original_length."""

    def check(self) -> None:
        require(self.factor is None or self.factor >= 1, self, "factor must be at least 1")

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        base = raised_base(window.base, self.factor or window.factor, window.rotary_dim)
        return frequencies_of_base(base, window.rotary_dim)
