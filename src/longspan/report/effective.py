"""Effective length: how far a line's score holds, judged by what its interval rules out and not by the score itself."""

from __future__ import annotations

from dataclasses import dataclass

from longspan.report.metrics import is_score
from longspan.report.results import Cell, Line, Results

THRESHOLD = 0.5
"""A score whose lower bound is below it does not hold, unless another threshold is asked for."""


@dataclass(frozen=True, slots=True)
class EffectiveLength:
    """How far one line holds on one task."""

    line: Line
    length: int | None
    """The longest length at which, as at each shorter one measured, the lower bound is at least the threshold."""
    cell: Cell | None
    """The score at that length."""


def rank(results: Results, task: str, metric: str, threshold: float = THRESHOLD) -> list[EffectiveLength]:
    """The lines by effective length, longest first; equals by their lower bound there. Without intervals, no place.

    Of several seeds the lowest bound counts.
    """
    found = []
    for line, row in results.by_length(task, metric).items():
        if any(cell.bound is None for cell in row.values()):
            continue
        holding = None
        for length in sorted(row):
            if (row[length].bound or 0.0) < threshold:
                break
            holding = length
        found.append(EffectiveLength(line, holding, row.get(holding) if holding else None))
    return sorted(found, key=lambda item: (-(item.length or 0), -(item.cell.bound or 0.0) if item.cell else 0.0))


def effective_rule(threshold: float) -> str:
    """What an effective length is, in one sentence."""
    return (
        "The longest length at which, as at each shorter one measured, the lower bound of the score's 95 % interval is "
        f"at least {threshold:g}; of several seeds the lowest bound counts."
    )


def ranked_measures(results: Results) -> list[tuple[str, str]]:
    """The scores (task, metric) that lines can be ranked by: those with intervals."""
    return [(task, metric) for task, metric in results.measures if is_score(metric) and rank(results, task, metric)]
