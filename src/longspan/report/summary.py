"""What the numbers say, in sentences that claim no more than the numbers do."""

from __future__ import annotations

from collections.abc import Mapping

from longspan.lengths import format_length
from longspan.report.formats import format_cell, format_value
from longspan.report.results import METRICS, PLAIN, Cell, Line, Results, lengths_of

REACH = 0.5
"""Passkey accuracy that counts as reached, at every depth."""
LEARNED = 0.95
"""Passkey accuracy inside the training window below which nothing follows from longer windows."""


def reach(results: Results, line: Line) -> int | None:
    """The longest length at which, as at each shorter one measured, passkey is at least 0.5 at every depth.

    None if there is none. Lines without numbers by depth are judged by their accuracy over all depths.
    """
    worst: dict[int, float] = {}
    for (length, _), cell in results.by_depth("passkey").get(line, {}).items():
        worst[length] = min(cell.value, worst.get(length, cell.value))
    if not worst:
        worst = {length: cell.value for length, cell in results.by_length("passkey").get(line, {}).items()}
    reached = None
    for length in sorted(worst):
        if worst[length] < REACH:
            break
        reached = length
    return reached


def best(cells: Mapping[Line, Mapping[int, Cell]], length: int, task: str) -> tuple[list[Line], list[Line]]:
    """Lines that are best at `length` as printed, and others whose spread between seeds overlaps that of the first."""
    metric = METRICS[task]
    sign = -1 if metric == "accuracy" else 1
    found = {line: row[length] for line, row in cells.items() if length in row and row[length].finite}
    order = sorted(found, key=lambda line: sign * found[line].value)
    if not order:
        return [], []
    top = found[order[0]]
    equal = [ln for ln in order if format_value(found[ln].value, metric) == format_value(top.value, metric)]
    return equal, [line for line in order if line not in equal and _overlap(found[line], top)]


def sentences(results: Results) -> list[str]:
    """The headline of a report: perplexity at the training length and at the longest, and the reach of retrieval."""
    found = [*_perplexity(results), *_retrieval(results)]
    return found or [f"{len(results.records):,} records; none is of perplexity or passkey by length."]


def _perplexity(results: Results) -> list[str]:
    cells = results.by_length("perplexity")
    lengths = lengths_of(cells)
    if not lengths:
        return []
    trained = results.train_lengths[0] if len(results.train_lengths) == 1 else None
    told = []
    for length in dict.fromkeys([trained if trained in lengths else lengths[0], lengths[-1]]):
        assert length is not None
        leaders, close = best(cells, length, "perplexity")
        if not leaders:
            continue
        where = f"At {format_length(length)} tokens"
        if trained and length == trained:
            where += ", the training length,"
        elif trained and length > trained:
            where += f", {length / trained:g} times the training length,"
        value = format_cell(cells[leaders[0]][length], "perplexity")
        text = f"{where} the lowest perplexity is {value} by {names(leaders)}"
        most = max(len(row[length].seeds) for row in cells.values() if length in row)
        if len(cells[leaders[0]][length].seeds) == 1 < most:
            text += " (one seed; others have more)"
        text += f"; the seeds of {names(close)} overlap with it." if close else "."
        told.append(text + _plain_beside(results, cells, length, leaders))
    return told


def _plain_beside(results: Results, cells: Mapping[Line, Mapping[int, Cell]], length: int, leaders: list[Line]) -> str:
    arms = list(dict.fromkeys(line.arm for line in leaders))
    plain = {line.arm: line for line in cells if line.extension == PLAIN and line not in leaders}
    texts = [
        f"{arm} without an extension has {format_value(cells[plain[arm]][length].value, 'perplexity')}"
        for arm in arms
        if arm in plain and length in cells[plain[arm]] and len(leaders) == 1
    ]
    return f" {texts[0][0].upper()}{texts[0][1:]}." if texts else ""


def _retrieval(results: Results) -> list[str]:
    cells = results.by_length("passkey")
    if not cells:
        return []
    reached: dict[int, list[Line]] = {}
    for line in cells:
        reached.setdefault(reach(results, line) or 0, []).append(line)
    farthest = max(reached)
    rule = f"passkey of at least {REACH:g} at every depth, at that length and each shorter one"
    if farthest == 0:
        told = [f"No line reaches {rule}."]
    else:
        told = [
            f"Retrieval reaches farthest, {format_length(farthest)} tokens, with {names(reached[farthest])} ({rule})."
        ]
    weak = []
    for line, row in cells.items():
        inside = [cell.value for length, cell in row.items() if length in results.train_lengths]
        if line.extension == PLAIN and inside and min(inside) < LEARNED:
            weak.append(f"{line.label} ({format_value(min(inside), 'accuracy')})")
    if weak:
        listed = ", ".join(weak)
        told.append(
            f"Passkey at the training length itself is below {LEARNED:g} for {listed}: "
            "longer windows say little about retrieval there."
        )
    return told


def names(lines: list[Line], most: int = 3) -> str:
    """`a, b and c`, or the first few `and 4 more`."""
    labels = [line.label for line in lines]
    if len(labels) > most:
        labels = [*labels[: most - 1], f"{len(labels) - most + 1} more"]
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _overlap(first: Cell, second: Cell) -> bool:
    """Whether seeds overlap. The interval of a single seed says how texts differ, which is the same for all lines."""
    if len(first.seeds) < 2 or len(second.seeds) < 2:
        return False
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return False
    return first.low <= second.high and second.low <= first.high
