"""YaRN: leave fast pairs alone, interpolate slow pairs, sharpen the logits.

Formula   omega'_j = omega_j (1 - ramp_j) + omega_j/s ramp_j; tau = (0.1 ln s + 1)^2
Source    arXiv:2309.00071 sec. 3.2, 3.4; official code jquesnelle/yarn
Differs   the paper's ramp is linear in turns, the authors' code's in the pair index (middle pairs up to 2.4 x faster);
          PoSE's code has a third form. ramp="index" is the default, since published weights use it. tau acts on the
          whole logit; where only a part of the head rotates, transformers scales that part alone
Checked   transformers ROPE_INIT_FUNCTIONS["yarn"] (index); numbers worked by hand (turns, harmonic)
Training  none, or 400 steps at the target length
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Frequency, Scale, Window
from longspan.settings import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Yarn(Frequency, Scale):
    """NTK-by-parts with a temperature."""

    scales_window: ClassVar[bool] = True

    factor: float | None = None
    """s; None takes target_length / original_length."""
    ramp: Literal["index", "turns", "harmonic"] = "index"
    """What the blend is linear in: the pair's index (authors' code), its turns (paper), or 1/omega (PoSE's code)."""
    beta_fast: float = 32.0
    """Pairs that turn more often than this in the original window stay as they are."""
    beta_slow: float = 1.0
    """Pairs that turn less often than this are interpolated fully."""
    attention_factor: float | None = None
    """Square root of tau; None takes 0.1 ln s + 1."""
    truncate: bool = True
    """Round the ends of the index ramp outwards to whole pairs, as the authors' code does."""

    def check(self) -> None:
        require(self.factor is None or self.factor >= 1, self, "factor must be at least 1")
        require(self.beta_fast > self.beta_slow > 0, self, "beta_fast must be above beta_slow, and that above 0")
        require(self.attention_factor is None or self.attention_factor > 0, self, "attention_factor must be positive")

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        factor = self.factor or window.factor
        ramp = self._by_turns(window) if self.ramp == "turns" else self._by_index(window)
        if self.ramp == "harmonic":
            return window.omega / (1 + ramp * (factor - 1))
        return window.omega * (1 - ramp) + window.omega / factor * ramp

    def scale(self, window: Window, positions: Tensor) -> Tensor:
        factor = self.factor or window.factor
        root = 0.1 * math.log(factor) + 1 if self.attention_factor is None else self.attention_factor
        return torch.full(positions.shape, root**2, dtype=torch.float64, device=positions.device)

    def _by_turns(self, window: Window) -> Tensor:
        return 1 - ((window.turns - self.beta_slow) / (self.beta_fast - self.beta_slow)).clip(0, 1)

    def _by_index(self, window: Window) -> Tensor:
        low, high = self._pair(self.beta_fast, window), self._pair(self.beta_slow, window)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, window.rotary_dim - 1)
        if low == high:
            high += 0.001  # the authors' guard against a ramp of no width
        index = torch.arange(window.rotary_dim // 2, dtype=torch.float64)
        return ((index - low) / (high - low)).clip(0, 1)

    @staticmethod
    def _pair(turns: float, window: Window) -> float:
        """The (fractional) index of the pair that turns `turns` times within the original window."""
        wavelengths = window.original_length / (2 * math.pi * turns)
        return window.rotary_dim * math.log(wavelengths) / (2 * math.log(window.base))
