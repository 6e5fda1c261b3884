"""Who is best at one length, and whether the others can be told from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from longspan.report.formats import format_value
from longspan.report.metrics import metric_named
from longspan.report.paired import Difference, Pairs
from longspan.report.results import Cell, Line, Results


@dataclass(frozen=True, slots=True)
class Contest:
    """One task at one length."""

    length: int
    leaders: list[Line]
    """The best line, and those whose number is printed alike."""
    rivals: list[tuple[Line, Difference | None]]
    """The others, best first, each with the leader minus it; None where the records do not tell."""

    @property
    def close(self) -> list[tuple[Line, Difference]]:
        """Rivals that share documents, prompts or seeds with the leader and cannot be told from it."""
        return [(line, found) for line, found in self.rivals if found is not None and not found.tells_apart]

    @property
    def untold(self) -> list[Line]:
        """Rivals of which the records do not tell whether they differ."""
        return [line for line, found in self.rivals if found is None]


def best(cells: Mapping[Line, Mapping[int, Cell]], length: int, metric: str) -> tuple[list[Line], list[Line]]:
    """The lines that are best at `length` as printed, and the others, best first; without a better way, lowest."""
    sign = -1 if metric_named(metric).better == "higher" else 1
    found = {line: row[length] for line, row in cells.items() if length in row and row[length].finite}
    order = sorted(found, key=lambda line: sign * found[line].value)
    if not order:
        return [], []
    printed = format_value(found[order[0]].value, metric)
    leaders = [line for line in order if format_value(found[line].value, metric) == printed]
    return leaders, [line for line in order if line not in leaders]


def contest(results: Results, pairs: Pairs, task: str, metric: str, length: int) -> Contest | None:
    """The contest of `task` at `length`; None where no line has a finite number."""
    leaders, others = best(results.by_length(task, metric), length, metric)
    if not leaders:
        return None
    rivals = [(line, pairs.difference(leaders[0], line, task, metric, length)) for line in others]
    return Contest(length, leaders, rivals)


def names(lines: list[Line], most: int = 3, *, short: bool = False) -> str:
    """`a, b and c`, or the first few `and 4 more`; `short` leaves out settings that tell no lines apart."""
    labels = [line.short if short else line.label for line in lines]
    if len(labels) > most:
        labels = [*labels[: most - 1], f"{len(labels) - most + 1} more"]
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
