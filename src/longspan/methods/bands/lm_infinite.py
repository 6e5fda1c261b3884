"""LM-Infinite: the nearest keys and the first ones; the first ones stand at a fixed distance once they are far.

Formula   seen: i - j < local or j < sinks; rel = i - j within local, = limit for sinks beyond it
Source    arXiv:2308.16137; code Glaciohound/LM-Infinite
Differs   the code's ceiling is min(limit, length - 1), so that it moves with the input; here it is fixed. The code's
          option to insert middle keys again is another method and not built
Checked   rows of rel worked out by hand; logits of far sinks stand still
Training  none. It does not extend the context: what lies in the middle is not seen, so nothing can be found there
"""

from __future__ import annotations

from dataclasses import dataclass

from longspan.equation import Band, Bands, Window
from longspan.errors import MethodError


@dataclass(frozen=True, slots=True, kw_only=True)
class LmInfinite(Bands):
    """A Lambda-shaped mask with a ceiling on distances."""

    sinks: int = 10
    """First tokens that are always seen (10 to 100 in the authors' runs)."""
    local: int | None = None
    """Nearest tokens that are seen, the query's own among them; the original length if not set."""
    limit: int | None = None
    """Where far sinks stand; as `local` if not set."""

    def check(self) -> None:
        if self.sinks < 0:
            raise MethodError(f"sinks must not be negative, not {self.sinks}")
        for name in ("local", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MethodError(f"{name} must be at least 1, not {value}")

    def kept(self, window: Window) -> tuple[int, int]:
        return self.sinks, self.local or window.original_length

    def bands(self, window: Window) -> tuple[Band, ...]:
        _, local = self.kept(window)
        limit = self.limit or local
        return (
            Band(lambda i: i - local + 1, lambda i: i, lambda i: i, lambda j: j),
            Band(
                lambda i: i * 0,
                lambda i: (i - local).clamp(max=self.sinks - 1),
                lambda i: i * 0 + limit,
                lambda j: j * 0,
            ),
        )
