"""Tables of the page: their columns can be sorted, filtered by length and copied as CSV (`page.js`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from longspan.report.charts import COLORS
from longspan.report.curves import line_data
from longspan.report.formats import DASH, format_interval, format_value
from longspan.report.results import Cell, Line, Results


@dataclass(frozen=True, slots=True)
class Title:
    """The head of a column."""

    text: str
    length: int | None = None
    """The window length whose numbers the column holds, by which the page's filter finds it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands in one place of a table."""

    text: str
    small: str = ""
    """A second line: an interval."""
    value: float | None = None
    """The number itself, for sorting and CSV; None for words."""
    low: float | None = None
    high: float | None = None
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row: what it is about, and its entries."""

    head: str
    entries: Sequence[Entry]
    small: str = ""
    color: int | None = None
    data: dict[str, int] = field(default_factory=dict)
    """data- attributes, by which the page's filters find the row."""


def line_row(results: Results, line: Line, entries: Sequence[Entry]) -> Row:
    """The row of a line."""
    return Row(line.arm, entries, line.extension, line.color, line_data(results, line))


def cell_entry(cell: Cell | None, metric: str, *, strong: bool = False) -> Entry:
    """A measured number with its interval, or a dash."""
    if cell is None:
        return Entry(DASH)
    small = format_interval(cell, metric).strip()
    return Entry(format_value(cell.value, metric), small, cell.value, cell.low, cell.high, strong)


def table(titles: Sequence[Title], rows: Sequence[Row], *, words: bool = False) -> str:
    """The table with its button; `words` for tables of text, which wraps."""
    head = "".join(_head(title) for title in titles)
    body = "".join(_row(row) for row in rows)
    kind = "words" if words else "numbers"
    return (
        '<div class="table"><button type="button" class="copy">Copy CSV</button>'
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def _head(title: Title) -> str:
    length = "" if title.length is None else f' data-length="{title.length}"'
    return f'<th scope="col"{length}><button type="button" class="sort">{escape(title.text)}</button></th>'


def _row(row: Row) -> str:
    data = "".join(f' data-{key}="{value}"' for key, value in row.data.items())
    dot = "" if row.color is None else f'<i class="dot c{row.color % COLORS}"></i>'
    small = f"<small>{escape(row.small)}</small>" if row.small else ""
    return f'<tr{data}><th scope="row">{dot}{escape(row.head)}{small}</th>{"".join(map(_entry, row.entries))}</tr>'


def _entry(entry: Entry) -> str:
    numbers = {"v": entry.value, "low": entry.low, "high": entry.high}
    data = "".join(f' data-{key}="{value:.6g}"' for key, value in numbers.items() if value is not None)
    strong = ' class="best"' if entry.strong else ""
    small = f"<small>{escape(entry.small)}</small>" if entry.small else ""
    return f"<td{strong}{data}>{escape(entry.text)}{small}</td>"
