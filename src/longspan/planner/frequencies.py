"""What a plan makes of each pair's frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from longspan.surgery import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One pair of a head before and after, by the frequencies at the target length."""

    index: int
    before: float
    """Wavelength in tokens as the model was trained."""
    after: float
    """Wavelength in tokens now; infinite where the pair does not turn."""
    turns: float
    """How often it turned within the original window."""

    @property
    def slowed(self) -> float:
        """How many times slower it turns."""
        return self.after / self.before


def pairs(plan: Plan) -> list[Pair]:
    """All pairs, fastest first. Where features change their number, all of them are those of the feature."""
    plain = type(plan.slots)(feature=plan.slots.feature).omega(plan.window).tolist()
    now = plan.slots.omega(plan.window.at(plan.window.target_length)).tolist()
    return [
        Pair(
            index=index,
            before=2 * math.pi / old,
            after=2 * math.pi / new if new else math.inf,
            turns=plan.window.original_length * old / (2 * math.pi),
        )
        for index, (old, new) in enumerate(zip(plain, now, strict=True))
    ]


def sample(found: Sequence[Pair], most: int = 9) -> list[Pair]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(found) <= most:
        return list(found)
    return [found[round(place * (len(found) - 1) / (most - 1))] for place in range(most)]


def touched(found: Sequence[Pair]) -> tuple[float, float]:
    """Shares of pairs that turn as before (within a thousandth), and that are slowed by the most that any is."""
    most = max(pair.slowed for pair in found)
    same = sum(abs(pair.slowed - 1) < 1e-3 for pair in found)
    full = sum(math.isinf(pair.slowed) or pair.slowed > 0.999 * most for pair in found) if most > 1 else 0
    return same / len(found), full / len(found)
