"""Dual chunk attention: positions start anew in each chunk, and three bands say where older chunks stand.

Formula   c = 3 L / 4, w = L / 8, s = c - w; keys stand at j mod s; the query at i mod s for its own chunk, at
          min(i mod s + s, c) for the chunk before, at c for older ones
Source    arXiv:2402.17463; code HKUNLP/ChunkLlama
Differs   the code also multiplies logits by (0.05 ln(length / L) + 1)^2, by the longest length seen, and ignores
          padding; here logits are as in the paper and each row counts its own tokens
Checked   rows of rel worked out by hand; blocks merged equal one softmax
Training  none
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from longspan.equation import Band, Bands, Window
from longspan.errors import MethodError


@dataclass(frozen=True, slots=True, kw_only=True)
class DualChunk(Bands):
    """Chunks with positions of their own; no distance is above three quarters of the original length."""

    chunk: int | None = None
    """c: the largest distance; three quarters of the original length if not set."""
    local: int | None = None
    """w: distances up to this are exact across the border of chunks; an eighth of the original length if not set."""

    def check(self) -> None:
        if self.local is not None and self.local < 1:
            raise MethodError(f"local must be at least 1, not {self.local}")
        if self.chunk is not None and self.chunk <= (self.local or 1):
            raise MethodError(f"chunk {self.chunk} must be longer than local {self.local or 1}")

    def sizes(self, window: Window) -> tuple[int, int]:
        """c and s = c - w.

        Raises:
            MethodError: the original length is too short for chunks.
        """
        chunk = self.chunk or 3 * window.original_length // 4
        local = self.local or max(1, window.original_length // 8)
        if chunk <= local:
            raise MethodError(f"chunk {chunk} must be longer than local {local}: set both")
        return chunk, chunk - local

    def bands(self, window: Window) -> tuple[Band, ...]:
        chunk, stride = self.sizes(window)

        def begin(i: Tensor) -> Tensor:
            return i // stride * stride

        def inside(i: Tensor) -> Tensor:
            return i % stride

        return (
            Band(begin, lambda i: i, inside, inside),
            Band(
                lambda i: begin(i) - stride,
                lambda i: begin(i) - 1,
                lambda i: (inside(i) + stride).clamp(max=chunk),
                inside,
            ),
            Band(lambda i: i * 0, lambda i: begin(i) - stride - 1, lambda i: i * 0 + chunk, inside),
        )
