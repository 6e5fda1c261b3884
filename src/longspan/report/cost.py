"""What training cost: time and memory of each arm, and what the change cost at the length that the model knew."""

from __future__ import annotations

from longspan.lengths import format_bytes, format_length
from longspan.report.formats import DASH, format_value
from longspan.report.line_table import LineTable
from longspan.report.results import PLAIN, Cell, Line, Results

_COLUMNS = {"seconds per step": "seconds a step", "seconds": "seconds in all", "bytes": "peak memory"}
"""Columns by the metric that they show."""


def cost_table(results: Results) -> LineTable | None:
    """Seconds and peak memory of the training of each line, the mean over seeds; None if they were not measured."""
    found: dict[Line, dict[str, tuple[int, Cell]]] = {}
    for metric in _COLUMNS:
        for line, row in results.by_depth("train", metric).items():
            for (length, _), cell in row.items():
                found.setdefault(line, {})[metric] = (length, cell)
    if not found:
        return None
    rows = {}
    for line in results.lines:
        if cells := found.get(line):
            window = format_length(next(length for length, _ in cells.values()))
            rows[line] = [
                window,
                *(_text(cells[metric][1], metric) if metric in cells else DASH for metric in _COLUMNS),
            ]
    note = (
        "Time with all that ran beside it, saving included. Memory in use at the highest moment of training: on CUDA "
        "what torch had allocated, on processors what was resident of the process, libraries included. "
        f"Mean over seeds, in parentheses the lowest and highest; {DASH}: not measured."
    )
    return LineTable("Cost of training", note, ("window", *_COLUMNS.values()), rows)


def short_context_table(results: Results) -> LineTable | None:
    """Perplexity of trained lines at the training length against the model that they went on from.

    None without such a model among the records: one that was measured plain and not trained, with each of the seeds.
    """
    if not results.train_lengths:
        return None
    length = results.train_lengths[0]
    cells = {line: row[length] for line, row in results.by_length("perplexity").items() if length in row}
    trained = {line.arm for line in results.training()}
    plain = {results.line_of(record) for record in results.records if record.method in ("rope", "none", "")}
    bases = [line for line in cells if line.arm not in trained and line.extension == PLAIN and line in plain]
    if len(bases) != 1 or not trained:
        return None
    base = cells[bases[0]]
    rows = {
        line: [_spread(cell), _change(cell, base)]
        for line, cell in cells.items()
        if line.arm in trained and {seed for seed, _ in cell.seeds} <= {seed for seed, _ in base.seeds}
    }
    note = (
        f"Perplexity (lower is better) at the training length of {format_length(length)} tokens, and its change from "
        f"the untrained '{bases[0].arm}' of the same seed, which has {_spread(base)}. "
        "Mean over seeds, in parentheses the lowest and highest."
    )
    return LineTable("Short context", note, ("perplexity", f"change from {bases[0].arm}"), rows)


def _text(cell: Cell, metric: str) -> str:
    values = [value for _, value in cell.seeds]
    write = (lambda value: format_bytes(round(value))) if metric == "bytes" else _seconds
    return write(cell.value) + (f" ({write(min(values))}{DASH}{write(max(values))})" if len(values) > 1 else "")


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _spread(cell: Cell) -> str:
    values = [value for _, value in cell.seeds]
    ends = DASH.join(format_value(end, "perplexity") for end in (min(values), max(values)))
    return format_value(cell.value, "perplexity") + (f" ({ends})" if len(values) > 1 else "")


def _change(cell: Cell, base: Cell) -> str:
    """Change in percent, seed by seed."""
    before = dict(base.seeds)
    changes = [100 * (value / before[seed] - 1) for seed, value in cell.seeds]
    ends = DASH.join(f"{end:+.1f}" for end in (min(changes), max(changes)))
    return f"{sum(changes) / len(changes):+.1f} %" + (f" ({ends})" if len(changes) > 1 else "")
