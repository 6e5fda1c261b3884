"""RoPE: rotate each pair of q and k by position times frequency; nothing else.

Formula   omega_j = base^(-2j/R), j = 0 .. R/2 - 1
Source    arXiv:2104.09864 sec. 3.2.2
Differs   nothing; it is the term that the other methods of this slot change
Checked   transformers' default rope of each supported family; the float64 reference
Training  from scratch; extends no window by itself
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Frequency, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope(Frequency):
    """Plain rotary position embedding."""

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        return window.omega
