"""Axes of charts: a value's place between 0 and 1, and the ticks that a reader expects."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from longspan.lengths import format_length
from longspan.report.formats import format_value


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str
    kind: Literal["linear", "log"] = "linear"

    def place(self, value: float) -> float:
        """Where `value` stands: 0 at `low`, 1 at `high`, beyond them outside."""
        if self.kind == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def length_axis(lengths: Iterable[int], title: str) -> Axis:
    """Logarithmic in base 2, a tick at each length, or at powers of two if there are more than 9.

    A length that stands too near to a rounder one gets no tick: their labels would run into each other.
    """
    known = sorted(set(lengths))
    low, high = known[0], known[-1]
    ticks = known
    if len(known) > 9:
        first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
        step = max(1, math.ceil((last - first) / 8))
        ticks = [2**power for power in range(last, first - 1, -step)][::-1] or [low, high]
    ticks = [tick for tick in ticks if not any(_crowds(other, tick, high / low) for other in ticks)]
    margin = (high / low) ** 0.02 if high > low else 2.0
    return Axis(low / margin, high * margin, tuple((t, format_length(t)) for t in ticks), title, "log")


def _crowds(rounder: int, length: int, span: float) -> bool:
    """Whether `rounder` has more factors of two than `length` and stands within a twelfth of the axis of it."""
    near = abs(math.log(rounder / length)) < math.log(span) / 12
    return near and (rounder & -rounder) > (length & -length)


def log_axis(values: Iterable[float], title: str, *, widest: float = 100.0) -> Axis:
    """Logarithmic with ticks at 1, 2, 5 times powers of ten; spans at most `widest` times the lowest value."""
    known = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    low, high = min(known), min(max(known), min(known) * widest)
    low, high = low / 1.06, max(high * 1.06, low * 1.3)
    return Axis(low, high, _log_ticks(low, high), title, "log")


def linear_axis(values: Iterable[float], title: str) -> Axis:
    """Linear over `values`, with four to seven round ticks."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    places = max(0, -math.floor(math.log10(step)))
    first = math.ceil(low / step)
    numbers = [index * step for index in range(first, math.floor(high / step) + 1)]
    return Axis(low, high, tuple((number, f"{number:.{places}f}") for number in numbers), title)


def share_axis(title: str, *, percent: bool = False) -> Axis:
    """Linear from 0 to 1, with a little room at both ends so that lines at 0 and 1 can be seen."""
    marks = (0.0, 0.25, 0.5, 0.75, 1.0)
    return Axis(-0.03, 1.03, tuple((m, f"{m:.0%}" if percent else f"{m:g}") for m in marks), title)


def _log_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 7:
            break
    if len(ticks) < 2:
        ticks = [low * (high / low) ** (index / 4) for index in range(5)]
        return tuple((tick, format_value(tick, "perplexity")) for tick in ticks)
    return tuple((tick, f"{tick:,.10g}") for tick in ticks)


def bytes_axis(values: Iterable[float], title: str) -> Axis:
    """Logarithmic with ticks at powers of two, at most 7 of them."""
    known = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    low, high = min(known) / 1.1, max(known) * 1.1
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    step = max(1, math.ceil((last - first) / 6))
    ticks = [2.0**power for power in range(first, last + 1, step)] or [low, high]
    return Axis(low, high, tuple((tick, format_value(tick, "bytes")) for tick in ticks), title, "log")
