"""Passkey by distance: how far back a line retrieves, in training lengths."""

from __future__ import annotations

import itertools

from longspan.intervals import wilson
from longspan.records import Record
from longspan.report.formats import DASH, format_value
from longspan.report.line_table import LineTable
from longspan.report.results import Line, Results


def distance_table(results: Results) -> LineTable | None:
    """Accuracy by the distance of the key from the end, all lengths and seeds together; None if none is beyond L.

    L is the shortest training length. A key at depth d of n tokens is taken to lie (1 - d) n before the end; the head
    and the question of the prompt make it a little less, so that a distance on a border counts as the nearer one.
    """
    if not results.train_lengths:
        return None
    unit = results.train_lengths[0]
    trials: dict[Line, list[tuple[float, Record]]] = {}
    for record in _last_of_each(results):
        assert record.depth is not None
        assert record.length is not None
        trials.setdefault(results.line_of(record), []).append(((1 - record.depth) * record.length / unit, record))
    farthest = max((distance for found in trials.values() for distance, _ in found), default=0.0)
    if farthest <= 1:
        return None
    bins = [(low, high) for low, high in itertools.pairwise(distance_edges(farthest)) if low < farthest]
    rows = {line: [_accuracy(trials[line], *bounds) for bounds in bins] for line in results.lines if line in trials}
    note = (
        f"Passkey accuracy (higher is better) by the distance of the key from the end, L = {unit} tokens; all lengths "
        f"and seeds together; in parentheses the 95 % interval (Wilson); {DASH}: not measured."
    )
    columns = [f"to {high:g} L" if low == 0 else f"{low:g}{DASH}{high:g} L" for low, high in bins]
    return LineTable("Passkey by distance", note, tuple(columns), rows)


def distance_edges(farthest: float) -> list[float]:
    """Borders of the columns: 0, 1 and its doublings until `farthest` is within; from 8 on the last one is halved."""
    edges = [0.0, 1.0]
    while edges[-1] < farthest:
        edges.append(2 * edges[-1])
    if edges[-1] >= 8:
        edges.insert(-1, 0.75 * edges[-1])
    return edges


def _last_of_each(results: Results) -> list[Record]:
    """The trials at each length and depth; of those measured twice, the later."""
    found = {
        (results.line_of(record), record.length, record.depth, record.seed): record
        for record in results.select("passkey")
        if record.depth is not None and record.length is not None and record.n
    }
    return list(found.values())


def _accuracy(trials: list[tuple[float, Record]], low: float, high: float) -> str:
    """Accuracy over the `trials` that are farther than `low` and up to `high`."""
    records = [record for distance, record in trials if low < distance <= high or distance == low == 0]
    total = sum(record.n or 0 for record in records)
    if not total:
        return DASH
    right = sum(round((record.value or 0.0) * (record.n or 0)) for record in records)
    ends = DASH.join(format_value(end, "accuracy") for end in wilson(right, total))
    return f"{format_value(right / total, 'accuracy')} ({ends})"
