"""Dynamic NTK: raise the base as the sequence grows; inputs inside the trained window stay untouched.

Formula   base'(N) = base * (a N/L - (a - 1))^(R/(R-2)) for N > L, else base; N tokens read now, L trained length
Source    arXiv:2309.00071 sec. 3.3; the form with a is transformers'; the paper's is a = 1
Differs   transformers leaves cached keys at the base of their own time; here keys are cached un-rotated and turned by
          the current base. Hidden states made earlier keep the frequencies of their time: only a full forward, or
          static_for, gives every layer one base. N is counted for each row of a batch, not for the batch as a whole
Checked   transformers ROPE_INIT_FUNCTIONS["dynamic"]; cached keys against fresh ones
Training  none
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Frequency, Window
from longspan.methods.frequency.ntk import frequencies_of_base, raised_base
from longspan.settings import require


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicNtk(Frequency):
    """NTK-aware interpolation whose base follows the length."""

    scales_window: ClassVar[bool] = True
    follows_length: ClassVar[bool] = True

    factor: float | None = None
    """a; None takes target_length / original_length."""
    static_for: int | Literal["target"] | None = None
    """Use the base of this length for all inputs, so that nothing changes while decoding; "target" is target_length."""

    def check(self) -> None:
        require(self.factor is None or self.factor >= 1, self, "factor must be at least 1")
        require(not isinstance(self.static_for, int) or self.static_for > 0, self, "static_for must be positive")

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        factor = self.factor or window.factor
        growth = self._length(window) / window.original_length
        if growth <= 1 or (window.factor == 1 and self.factor is None):
            return window.omega
        base = raised_base(window.base, factor * growth - (factor - 1), window.rotary_dim)
        return frequencies_of_base(base, window.rotary_dim)

    def _length(self, window: Window) -> int:
        if isinstance(self.static_for, int):
            return self.static_for
        return window.target_length if self.static_for == "target" or window.length is None else window.length

    def changes_with_length(self) -> bool:
        return self.static_for is None
