"""ReRoPE: distances grow up to w, and beyond it no further, or more slowly (leaky).

Formula   rel = min(i - j, w); leaky with k: w + (i - j - w) / k beyond w
Source    J. Su, kexue.fm/archives/9706 and 9708; code bojone/rerope
Differs   the code scales logits by log-n within the method; here that is `log_n`, to be named beside it
Checked   rows of rel worked out by hand; k = 1 is RoPE, a large k is ReRoPE
Training  none
"""

from __future__ import annotations

from dataclasses import dataclass

from longspan.equation import Band, Bands, Window
from longspan.errors import MethodError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReRope(Bands):
    """Rectified distances."""

    window: int | None = None
    """w: distances below it are exact; an eighth of the original length if not set (512 of 4096 in the code)."""
    leak: float | None = None
    """k: how many tokens beyond w count as one; None: all of them stand at w."""

    def check(self) -> None:
        if self.window is not None and self.window < 1:
            raise MethodError(f"window must be at least 1, not {self.window}")
        if self.leak is not None and self.leak < 1:
            raise MethodError(f"leak must be at least 1, not {self.leak:g}")

    def bands(self, window: Window) -> tuple[Band, ...]:
        near = self.window or max(1, window.original_length // 8)
        leak = self.leak
        exact = Band(lambda i: i - near + 1, lambda i: i, lambda i: i, lambda j: j)
        if leak is None:
            far = Band(lambda i: i * 0, lambda i: i - near, lambda i: i * 0 + near, lambda j: j * 0)
        else:
            shift = near * (leak - 1)
            far = Band(
                lambda i: i * 0, lambda i: i - near, lambda i: (i.double() + shift) / leak, lambda j: j.double() / leak
            )
        return exact, far
