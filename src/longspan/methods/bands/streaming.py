"""StreamingLLM: the first few tokens and the most recent ones, at the positions they have among themselves.

Formula   seen: i - j < R or j < sinks; rel = distance of the places in a cache of sinks + R tokens
Source    arXiv:2309.17453; code mit-han-lab/streaming-llm
Differs   nothing is evicted: every position of a prefill sees what a full cache would have held at its time, so
          perplexity needs one forward pass; hidden states of old keys are those of their own time, as in the code
Checked   rows of rel worked out by hand; a one-layer model equals a fresh run on sinks and recent tokens
Training  none. It does not extend the context: what lies in the middle is not seen, so nothing can be found there
"""

from __future__ import annotations

from dataclasses import dataclass

from longspan.equation import Band, Bands, Window
from longspan.errors import MethodError


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming(Bands):
    """Attention sinks and a sliding window."""

    sinks: int = 4
    """First tokens that are always seen."""
    recent: int | None = None
    """R: nearest tokens that are seen, the query's own among them; the original length less the sinks if not set."""

    def check(self) -> None:
        if self.sinks < 0:
            raise MethodError(f"sinks must not be negative, not {self.sinks}")
        if self.recent is not None and self.recent < 1:
            raise MethodError(f"recent must be at least 1, not {self.recent}")

    def kept(self, window: Window) -> tuple[int, int]:
        recent = self.recent or window.original_length - self.sinks
        if recent < 1:
            raise MethodError(
                f"{self.sinks} sinks leave no room in a window of {window.original_length}: take fewer, or set recent"
            )
        return self.sinks, recent

    def bands(self, window: Window) -> tuple[Band, ...]:
        _, recent = self.kept(window)
        last = self.sinks + recent - 1
        return (
            Band(lambda i: i - recent + 1, lambda i: i, lambda i: i, lambda j: j),
            Band(
                lambda i: i * 0,
                lambda i: (i - recent).clamp(max=self.sinks - 1),
                lambda i: i.clamp(max=last),
                lambda j: j,
            ),
        )
