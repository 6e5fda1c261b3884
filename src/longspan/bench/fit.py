"""How a cost grows with the length: the exponent of a power law."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from longspan.records import Record

REACH = 8
"""The fit begins at this share of the longest length: shorter ones are mostly what does not grow."""
COSTS = {"seconds": "exponent", "bytes": "memory exponent"}
"""Metrics that grow with the length, and what their exponents are called."""


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """`value ~ length^exponent`."""

    exponent: float
    low: float
    high: float
    """The lowest and highest slope between neighbouring lengths: equal where it is a power law indeed."""
    n: int
    """Lengths that it rests on."""


def power_law(values: Mapping[int, float]) -> PowerLaw | None:
    """The slope of log value over log length by least squares, from an eighth of the longest length on.

    None where fewer than two lengths with a value above zero are left.
    """
    points = sorted((length, value) for length, value in values.items() if value > 0)
    points = [(length, value) for length, value in points if length * REACH >= points[-1][0]]
    if len(points) < 2:
        return None
    logs = [(math.log(length), math.log(value)) for length, value in points]
    slope = statistics.linear_regression(*zip(*logs, strict=True)).slope
    steps = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(logs)]
    return PowerLaw(slope, min(steps), max(steps), len(points))


def exponents(records: Iterable[Record]) -> list[Record]:
    """A record of the exponent for each task, model and method among `records` that has a cost at two lengths."""
    found: dict[tuple[str, str, str, str], dict[int, Record]] = {}
    for record in records:
        if record.metric in COSTS and record.value is not None and record.length is not None:
            place = record.task, record.model, record.method, record.metric
            found.setdefault(place, {})[record.length] = record
    fitted = []
    for (*_, metric), row in found.items():
        law = power_law({length: record.value or 0.0 for length, record in row.items()})
        if law is not None:
            longest = row[max(row)]
            fitted.append(
                replace(longest, metric=COSTS[metric], value=law.exponent, low=law.low, high=law.high, n=law.n)
            )
    return fitted
