"""Tables of results in Markdown: a row for each arm and extension, a column for each length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from longspan.errors import DataError
from longspan.lengths import format_length
from longspan.records import Record
from longspan.report.formats import DASH, format_cell
from longspan.report.line_table import LineTable
from longspan.report.results import METRICS, Cell, Line, Results, lengths_of


def markdown_table(
    records: Sequence[Record],
    *,
    task: str = "perplexity",
    lengths: Sequence[int] | None = None,
    intervals: bool = True,
) -> str:
    """The numbers of `task` (`perplexity` or `passkey`) by length, as a Markdown table without a caption.

    A cell is the mean over seeds with (lowest-highest), or a single seed's value with its 95 % interval; `intervals`
    False leaves the parentheses out. A dash stands where nothing was measured.

    Raises:
        DataError: there is no record of `task`.
    """
    if task not in METRICS:
        raise DataError(f"no table is known for task '{task}': choose perplexity or passkey")
    cells = Results(records).by_length(task)
    if not cells:
        raise DataError(f"the records hold no {task} by length: measure it with `longspan eval --tasks {task}`")
    columns = list(lengths) if lengths is not None else lengths_of(cells)
    return table_of(cells, columns, METRICS[task], intervals=intervals)


def table_of(
    cells: Mapping[Line, Mapping[int, Cell]], columns: Sequence[int], metric: str, *, intervals: bool = True
) -> str:
    """`cells` as a Markdown table: a row for each line, a column for each of the lengths `columns`."""
    head = ["arm", "extension", *map(format_length, columns)]
    rows = [head, [":--", ":--", *("--:" for _ in columns)]]
    for line, row in cells.items():
        rows.append([escape_pipes(line.arm), escape_pipes(line.extension), *_row(row, columns, metric, intervals)])
    return _markdown(rows)


def markdown_of(table: LineTable) -> str:
    """`table` in Markdown, without its title and note."""
    rows = [["arm", "extension", *table.columns], [":--", ":--", *("--:" for _ in table.columns)]]
    rows += [[escape_pipes(line.arm), escape_pipes(line.extension), *texts] for line, texts in table.rows.items()]
    return _markdown(rows)


def table_note(records: Sequence[Record], *, task: str = "perplexity") -> str:
    """One line that says what the numbers of `markdown_table` are and how sure they are."""
    cells = [cell for row in Results(records).by_length(task).values() for cell in row.values()]
    counts = sorted({len(cell.seeds) for cell in cells})
    name = {"perplexity": "Perplexity (lower is better)", "passkey": "Passkey accuracy (higher is better)"}[task]
    if not counts or counts == [1]:
        return f"{name} by length in tokens; in parentheses the 95 % interval; {DASH}: not measured."
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    single = " (one seed: its 95 % interval)" if counts[0] == 1 else ""
    spread = f"in parentheses the lowest and highest seed{single}"
    return f"{name} by length in tokens, mean of {seeds} seeds; {spread}; {DASH}: not measured."


def _row(row: Mapping[int, Cell], columns: Sequence[int], metric: str, intervals: bool) -> list[str]:
    texts = [format_cell(row.get(length), metric) for length in columns]
    return texts if intervals else [text.split(" ")[0] for text in texts]


def _markdown(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def escape_pipes(text: str) -> str:
    """`text` for a place of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
