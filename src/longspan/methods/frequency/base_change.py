"""Base change (ABF): another base, nothing else.

Formula   omega'_j = base'^(-2j/R)
Source    arXiv:2309.16039 (1e4 -> 5e5 for 32K)
Differs   the slowest pair is slowed by (base'/base)^((R-2)/R), which has nothing to do with the factor; `ntk` picks the
          base that matches a factor
Checked   transformers' default rope built with the other base
Training  long continual pre-training at the target length (80B tokens in the source)
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Frequency, Window
from longspan.methods.frequency.ntk import frequencies_of_base
from longspan.settings import require


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChange(Frequency):
    """RoPE with another base."""

    base: float = 500000.0
    """The base that takes the place of the model's rope_theta."""

    def check(self) -> None:
        require(self.base > 1, self, "base must be above 1")

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        return frequencies_of_base(self.base, window.rotary_dim)
