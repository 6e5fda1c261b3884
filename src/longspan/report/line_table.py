"""A table with a row for each line, before it is known whether it will be Markdown or a part of a page."""

from __future__ import annotations

from dataclasses import dataclass

from longspan.report.results import Line


@dataclass(frozen=True, slots=True)
class LineTable:
    """Texts by line and column."""

    title: str
    note: str
    """What the numbers are, and how sure."""
    columns: tuple[str, ...]
    rows: dict[Line, list[str]]
    """A text for each column."""
