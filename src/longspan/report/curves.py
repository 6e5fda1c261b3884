"""Cells turned into the curves of charts."""

from __future__ import annotations

from collections.abc import Mapping

from longspan.lengths import format_length
from longspan.report.charts import Curve, Point
from longspan.report.formats import format_cell
from longspan.report.results import Cell, Line, Results

MOST_POINTS = 80
"""A training run's loss is thinned to about this many points."""


def line_data(results: Results, line: Line) -> dict[str, int]:
    """Numbers of the arm and the extension, by which the page's filters find everything about a line.

    An arm that was measured one way only is found by its arm alone.
    """
    arm = {"arm": results.arms.index(line.arm)}
    return arm if results.alone(line) else {**arm, "ext": results.extensions.index(line.extension)}


def curves_by_length(
    results: Results, cells: Mapping[Line, Mapping[int, Cell]], metric: str, shown: set[Line] | None = None
) -> list[Curve]:
    """A curve by length for each line; those outside `shown` are there but hidden."""
    named = {
        line: {length: (cell, f"{format_length(length)} tokens") for length, cell in row.items()}
        for line, row in cells.items()
    }
    return _curves(results, named, metric, shown, by_length=True)


def position_curves(results: Results, shown: set[Line] | None = None) -> list[Curve]:
    """Loss by position in the window, from each line's longest forward pass."""
    named: dict[Line, dict[int, tuple[Cell, str]]] = {}
    for line, row in results.by_depth("position").items():
        longest = max(length for length, _ in row)
        places = {max(1, round(depth * length)): cell for (length, depth), cell in row.items() if length == longest}
        named[line] = {place: (cell, f"position {place:,}") for place, cell in places.items()}
    return _curves(results, named, "nll", shown)


def training_curves(results: Results, shown: set[Line] | None = None) -> list[Curve]:
    """Training loss by share of the training done."""
    named: dict[Line, dict[float, tuple[Cell, str]]] = {}
    for line, row in results.training().items():
        kept = list(row.items())
        step = max(1, len(kept) // MOST_POINTS)
        thinned = dict([*kept[::step], kept[-1]])
        named[line] = {share: (cell, f"{share:.0%} of training") for share, cell in thinned.items()}
    return _curves(results, named, "loss", shown)


def training_marks(results: Results) -> list[tuple[float, str]]:
    """Vertical lines at the training lengths, if there are few enough to read."""
    lengths = results.train_lengths
    return [(length, f"trained at {format_length(length)}") for length in lengths] if len(lengths) <= 2 else []


def _curves(
    results: Results,
    cells: Mapping[Line, Mapping[int, tuple[Cell, str]]] | Mapping[Line, Mapping[float, tuple[Cell, str]]],
    metric: str,
    shown: set[Line] | None,
    *,
    by_length: bool = False,
) -> list[Curve]:
    curves = []
    for line, row in cells.items():
        points = [_point(x, cell, name, metric, by_length) for x, (cell, name) in row.items()]
        curves.append(
            Curve(
                label=line.label,
                points=points,
                short=line.short,
                color=line.color,
                dash=line.dash,
                data=line_data(results, line),
                shown=shown is None or line in shown,
            )
        )
    return curves


def _point(x: float, cell: Cell, name: str, metric: str, by_length: bool) -> Point:
    """A point with its band: the spread of seeds, or the interval of an accuracy.

    The interval of one model's loss over documents is left to the tables: documents differ far more than lines do, and
    differ alike for all lines, so bands of it would only hide them.
    """
    banded = len(cell.seeds) > 1 or metric not in ("perplexity", "nll", "bits_per_byte", "loss")
    low, high = (cell.low, cell.high) if banded else (None, None)
    length = int(x) if by_length else None
    return Point(x, cell.value, low, high, name, format_cell(cell, metric), length)
