"""PI: squeeze all positions back into the trained window.

Formula   omega'_j = omega_j / s, the same as positions p / s
Source    arXiv:2306.15595 sec. 3.2 (no code was released)
Differs   nothing known; it acts on short inputs too, which is where its loss on short tasks comes from
Checked   transformers ROPE_INIT_FUNCTIONS["linear"]; scores at positions 0, s, 2s .. equal RoPE's at 0, 1, 2 ..
Training  fine-tune about 1000 steps at the target length; poor without
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Frequency, Window
from longspan.settings import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Pi(Frequency):
    """Position Interpolation."""

    scales_window: ClassVar[bool] = True

    factor: float | None = None
    """s; None takes target_length / original_length."""

    def check(self) -> None:
        require(self.factor is None or self.factor >= 1, self, "factor must be at least 1")

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        return window.omega / (self.factor or window.factor)
