"""Llama-3 scaling: interpolate pairs by how often they turn, with a narrow band in between.

Formula   r_j turns in the original window: keep if r > high, omega/s if r < low, else a blend linear in r
Source    the configuration of the Llama 3.1 release, as transformers reads it; no paper defines it
Differs   equals NTK-by-parts in turns with other ends and no temperature
Checked   transformers ROPE_INIT_FUNCTIONS["llama3"]
Training  done by the vendor; works as a training-free choice too
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Frequency, Window
from longspan.settings import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3(Frequency):
    """The scaling of the Llama 3.1 release."""

    scales_window: ClassVar[bool] = True

    factor: float | None = None
    """s; None takes target_length / original_length (the release: 8)."""
    low_freq_factor: float = 1.0
    """Pairs with fewer turns than this are interpolated fully."""
    high_freq_factor: float = 4.0
    """Pairs with more turns than this stay as they are."""

    def check(self) -> None:
        require(self.factor is None or self.factor >= 1, self, "factor must be at least 1")
        ordered = self.high_freq_factor > self.low_freq_factor > 0
        require(ordered, self, "high_freq_factor must be above low_freq_factor, and that above 0")

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        keep = (window.turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        keep = keep.clip(0, 1)
        return keep * window.omega + (1 - keep) * window.omega / (self.factor or window.factor)
