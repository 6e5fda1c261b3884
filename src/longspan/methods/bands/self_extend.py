"""Self-Extend: near keys keep their distance, far ones share positions in groups.

Formula   rel = i - j for i - j < W, else floor(i / G) + W - floor(W / G) - floor(j / G)
Source    arXiv:2401.01325; code datamllab/LongLM
Differs   integers throughout: the authors' prefill divides W by G without rounding in several files, so that prefill
          and decoding disagree unless G divides W; such settings are refused here
Checked   rows of rel worked out by hand; the longest input whose distances stay inside the trained window
Training  none
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from longspan.equation import Band, Bands, Window
from longspan.errors import MethodError


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfExtend(Bands):
    """Grouped attention beyond a window of neighbours."""

    scales_window: ClassVar[bool] = True

    neighbors: int | None = None
    """W: keys nearer than this keep their distance; a quarter of the original length if not set."""
    group: int | None = None
    """G: far positions that share one; the smallest that keeps all distances within half of the original length, or
    else within all of it."""

    def check(self) -> None:
        for name in ("neighbors", "group"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MethodError(f"{name} must be at least 1, not {value}")
        if self.neighbors is not None and self.group is not None and self.neighbors % self.group:
            raise MethodError(
                f"group {self.group} does not divide neighbors {self.neighbors}: positions would not join"
            )

    def sizes(self, window: Window) -> tuple[int, int]:
        """W and G for a window, the latter a divisor of the former.

        Raises:
            MethodError: no group is large enough.
        """
        near = self.neighbors or max(1, window.original_length // 4)
        if self.group is not None:
            if near % self.group:
                raise MethodError(f"group {self.group} does not divide neighbors {near}: positions would not join")
            return near, self.group
        if window.factor == 1:
            return near, 1
        far = max(0, window.target_length - near)
        for furthest in (window.original_length // 2, window.original_length - 1):
            needed = math.ceil(far / max(1, furthest - near))
            fitting = [group for group in range(needed, near + 1) if near % group == 0]
            if fitting:
                return near, fitting[0]
        raise MethodError(
            f"{far} far positions do not fit into a window of {window.original_length} with {near} neighbors: "
            "take a nearer target"
        )

    def bands(self, window: Window) -> tuple[Band, ...]:
        near, group = self.sizes(window)
        return (
            Band(lambda i: i - near + 1, lambda i: i, lambda i: i, lambda j: j),
            Band(
                lambda i: i * 0, lambda i: i - near, lambda i: i // group + near - near // group, lambda j: j // group
            ),
        )
