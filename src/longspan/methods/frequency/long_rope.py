"""LongRoPE: slow each pair by a factor of its own that was searched for, one set for short inputs and one for long.

Formula   omega'_j = omega_j / lam_j, lam of the short set while N <= L and of the long set above (N tokens read now, L
          trained length), but lam = 1 at positions below start_tokens; tau = 1 + ln s / ln L for both sets
Source    arXiv:2402.13753 (the search, the start tokens); tau is that of Phi-3 and of transformers
Differs   transformers has no start_tokens, and leaves keys that it cached before the set flips at the short set (Phi-3
          empties its cache there); here keys are cached un-rotated and turned by the set in force. Hidden states made
          earlier keep the set of their time: only a full forward, or static_for, gives every layer one set. N is
          counted for each row of a batch. With start_tokens scores depend on absolute positions, not on their
          differences alone. tau acts on the whole logit; where only a part of the head rotates, transformers scales
          that part alone
Checked   transformers ROPE_INIT_FUNCTIONS["longrope"], its Llama and its Phi-3; RoPE, PI and NTK at factors of theirs
Training  none, or 400 and 600 steps at growing lengths; `longspan search` finds the factors of a model
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Frequency, Scale, Window
from longspan.errors import MethodError
from longspan.methods.frequency.ntk import frequencies_of_base, raised_base
from longspan.settings import require


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRope(Frequency, Scale):
    """One factor a pair, for short and for long inputs."""

    scales_window: ClassVar[bool] = True
    follows_length: ClassVar[bool] = True

    short_factor: tuple[float, ...] | None = None
    """lam of each pair while the input fits the trained window; None takes ones, which changes no frequency there."""
    long_factor: tuple[float, ...] | None = None
    """lam of each pair for longer inputs; None takes NTK's s^(2j/(R-2)), one of the places where the search starts."""
    attention_factor: float | None = None
    """Square root of tau; None takes sqrt(1 + ln s / ln L)."""
    start_tokens: int = 0
    """The paper's n0: positions below it turn as plain RoPE turns them."""
    static_for: int | Literal["target"] | None = None
    """Use the set of this length for all inputs, so that nothing changes while decoding; "target" is target_length."""

    def check(self) -> None:
        for name in ("short_factor", "long_factor"):
            for pair, factor in enumerate(getattr(self, name) or ()):
                if factor <= 0:
                    raise MethodError(f"LongRope: {name} has {factor:g} for pair {pair}, but factors must be positive")
        require(self.attention_factor is None or self.attention_factor > 0, self, "attention_factor must be positive")
        require(self.start_tokens >= 0, self, "start_tokens must not be negative")
        require(not isinstance(self.static_for, int) or self.static_for > 0, self, "static_for must be positive")

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        short, long = self._slowed(window, "short_factor"), self._slowed(window, "long_factor")
        return short if self._length(window) <= window.original_length else long

    def scale(self, window: Window, positions: Tensor) -> Tensor:
        if self.attention_factor is not None:
            tau = self.attention_factor**2
        elif window.factor == 1:
            tau = 1.0
        else:
            require(window.original_length > 1, self, "with an original_length of 1 it needs an attention_factor")
            tau = 1 + math.log(window.factor) / math.log(window.original_length)
        return torch.full(positions.shape, tau, dtype=torch.float64, device=positions.device)

    def plain_until(self) -> int:
        return self.start_tokens

    def changes_with_length(self) -> bool:
        return self.static_for is None and (self.short_factor is None or self.short_factor != self.long_factor)

    def _slowed(self, window: Window, name: Literal["short_factor", "long_factor"]) -> Tensor:
        factors: tuple[float, ...] | None = getattr(self, name)
        if factors is not None:
            if len(factors) != len(window.omega):
                raise MethodError(
                    f"LongRope has {len(factors)} numbers in {name}, but {len(window.omega)} pairs of a head turn: "
                    "give one number a pair"
                )
            return window.omega / torch.tensor(factors, dtype=torch.float64)
        if name == "short_factor":
            return window.omega
        return frequencies_of_base(raised_base(window.base, window.factor, window.rotary_dim), window.rotary_dim)

    def _length(self, window: Window) -> int:
        if isinstance(self.static_for, int):
            return self.static_for
        return window.target_length if self.static_for == "target" or window.length is None else window.length
