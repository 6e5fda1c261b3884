"""How numbers are written: enough digits to compare, never more than the eye can use."""

from __future__ import annotations

import math

from longspan.lengths import format_bytes
from longspan.report.results import Cell

DASH = "\N{EN DASH}"
"""Stands where nothing was measured."""


def format_value(value: float, metric: str) -> str:
    """`value` in words: accuracy 0.95, nll 2.345, perplexity 23.45, 123.4, 12,345 or 1.2e6, bytes 1.50 GiB."""
    if not math.isfinite(value):
        return str(value)
    if metric == "accuracy":
        return f"{value:.2f}"
    if metric in ("nll", "loss", "bits_per_byte"):
        return f"{value:.3f}"
    if metric.endswith("bytes"):
        return format_bytes(value)
    if metric == "seconds" and 0 < abs(value) < 10:
        return f"{value:.3g}"
    if abs(value) < 100:
        return f"{value:.2f}"
    if abs(value) < 1000:
        return f"{value:.1f}"
    if abs(value) < 100_000:
        return f"{value:,.0f}"
    return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")


def format_cell(cell: Cell | None, metric: str) -> str:
    """A cell as `23.45 (22.10\N{EN DASH}24.80)`, or a dash for None; the interval is left out where there is none."""
    if cell is None:
        return DASH
    return format_value(cell.value, metric) + format_interval(cell, metric)


def format_interval(cell: Cell, metric: str) -> str:
    """The interval or spread of `cell` in parentheses, after a space; empty if there is none."""
    if cell.low is None or cell.high is None:
        return ""
    return f" ({format_value(cell.low, metric)}{DASH}{format_value(cell.high, metric)})"


def count(number: int, name: str) -> str:
    """`1 line`, `3 lines`."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"
