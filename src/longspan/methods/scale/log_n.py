"""log-n: sharpen the logits of late queries, which have more keys to spread over.

Formula   tau_i = max(1, ln(i + 1) / ln L), i + 1 visible keys; without the clip also below 1
Source    J. Su's entropy-invariance argument (kexue.fm/archives/8823); code of ReRoPE and Self-Extend
Differs   i is the absolute position, in cached decoding and under sliding windows too, where fewer keys are visible
Checked   worked numbers: L = 4096 gives 1.08333 at 8192, 1.16667 at 16384, 1.25 at 32768
Training  none with the clip; trained in without it
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from longspan.equation import Scale, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class LogN(Scale):
    """Entropy-invariant scaling of the logits."""

    scales_window: ClassVar[bool] = True

    clip: bool = True
    """Leave queries inside the trained window as they are."""

    def scale(self, window: Window, positions: Tensor) -> Tensor:
        visible = (positions.double() + 1).clip(min=1)  # padding may stand at negative positions
        tau = visible.log() / math.log(max(2, window.original_length))  # a window of one token has no entropy to keep
        return tau.clip(min=1) if self.clip else tau
