"""The parts of the report page that list numbers: the best lines, full tables, settings and where it all came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from longspan.lengths import format_length
from longspan.report.charts import COLORS
from longspan.report.formats import DASH, format_interval, format_value
from longspan.report.results import METRICS, Cell, Line, Results, lengths_of
from longspan.report.sections import section, spread_note
from longspan.report.summary import REACH, best, names, reach

SETTINGS = ("study.yaml", "cpt.yaml", "run.yaml", "plan.json", "data.json")
"""Files of a run's folder that are shown as they are."""
MOST_SETTINGS = 20_000
"""Characters of one settings file that are shown."""


def best_table(results: Results) -> str:
    """The best line at each length, with those that cannot be told from it."""
    found = {task: results.by_length(task) for task in ("perplexity", "passkey")}
    found = {task: cells for task, cells in found.items() if cells}
    if not found:
        return ""
    head = "".join(f'<th scope="col">{title}</th>' for title in ("length", *(f"best {task}" for task in found)))
    rows = []
    for length in sorted({length for cells in found.values() for length in lengths_of(cells)}):
        row = f'<th scope="row">{format_length(length)}</th>'
        for task, cells in found.items():
            leaders, close = best(cells, length, task)
            if not leaders:
                row += f"<td>{DASH}</td>"
                continue
            value = format_value(cells[leaders[0]][length].value, METRICS[task])
            beside = f' <span class="soft">overlaps {len(close)} more</span>' if close else ""
            row += f"<td><b>{value}</b> {escape(names(leaders))}{beside}</td>"
        rows.append(f"<tr>{row}</tr>")
    return _scrolling(head, rows, "words")


def tables_section(results: Results) -> str:
    """All numbers by length, a table for each task, and each seed singly."""
    parts = []
    for task, title in (("perplexity", "Perplexity"), ("passkey", "Passkey accuracy")):
        cells = results.by_length(task)
        if cells:
            parts.append(f"<h3>{title}</h3>{_table(results, cells, task)}")
            if any(len(cell.seeds) > 1 for row in cells.values() for cell in row.values()):
                parts.append(f"<details><summary>{title}, each seed</summary>{_seed_table(cells, task)}</details>")
    note = f"{spread_note(results)} Bold: the best number of a column. {DASH}: not measured."
    return section("All numbers", note, "".join(parts)) if parts else ""


def settings_section(folders: list[Path]) -> str:
    """The settings files of `folders`, as they are."""
    parts = []
    for folder in folders:
        for name in SETTINGS:
            if (folder / name).is_file():
                text = (folder / name).read_text(encoding="utf-8", errors="replace")
                rest = f"\n... {len(text) - MOST_SETTINGS:,} more characters" if len(text) > MOST_SETTINGS else ""
                shown = escape(text[:MOST_SETTINGS] + rest)
                parts.append(
                    f"<details><summary>{escape(f'{folder.name}/{name}')}</summary><pre>{shown}</pre></details>"
                )
    return section("Settings", "", "".join(parts)) if parts else ""


def origin_section(results: Results) -> str:
    """Commits, versions, hardware, seeds and dates of the records."""
    records = results.records
    days = sorted({record.when[:10] for record in records})
    lines = {
        "runs": _counted(record.run for record in records),
        "methods": _counted(record.method for record in records),
        "seeds": ", ".join(str(seed) for seed in sorted({r.seed for r in records if r.seed is not None})) or DASH,
        "training length": ", ".join(format_length(length) for length in results.train_lengths) or DASH,
        "commit": _counted(record.commit or "unknown" for record in records),
        "versions": _counted(record.versions for record in records),
        "hardware": _counted(record.hardware for record in records),
        "measured": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
        "records": f"{len(records):,}",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in lines.items())
    return section("Where the numbers come from", "", f"<dl>{rows}</dl>")


def _counted(values: Iterable[str]) -> str:
    found = Counter(values)
    return (
        "; ".join(found)
        if len(found) == 1
        else "; ".join(f"{value} ({count:,} records)" for value, count in found.items())
    )


def _table(results: Results, cells: Mapping[Line, Mapping[int, Cell]], task: str) -> str:
    metric, lengths = METRICS[task], lengths_of(cells)
    leaders = {length: best(cells, length, task)[0] for length in lengths}
    titles = ["arm, extension", *map(format_length, lengths)]
    if task == "passkey":
        titles.append("reach")
    rows = []
    for line, row in cells.items():
        texts = []
        for length in lengths:
            cell = row.get(length)
            strong = ' class="best"' if line in leaders[length] else ""
            interval = f"<small>{format_interval(cell, metric).strip()}</small>" if cell else ""
            texts.append(f"<td{strong}>{format_value(cell.value, metric) if cell else DASH}{interval}</td>")
        if task == "passkey":
            reached = reach(results, line)
            texts.append(f"<td>{format_length(reached) if reached else DASH}</td>")
        rows.append(_row(line, texts))
    rule = f"at which, as at each shorter one, accuracy is at least {REACH:g} at every depth"
    told = f'<p class="soft">Reach: the longest length {rule}.</p>' if task == "passkey" else ""
    return _scroll(titles, rows) + told


def _seed_table(cells: Mapping[Line, Mapping[int, Cell]], task: str) -> str:
    lengths = lengths_of(cells)
    rows = []
    for line, row in cells.items():
        by_seed: dict[int | None, dict[int, float]] = {}
        for length, cell in row.items():
            for seed, value in cell.seeds:
                by_seed.setdefault(seed, {})[length] = value
        for seed, values in by_seed.items():
            found = [format_value(values[length], METRICS[task]) if length in values else DASH for length in lengths]
            seed_text = DASH if seed is None else str(seed)
            rows.append(_row(line, [f"<td>{text}</td>" for text in [seed_text, *found]]))
    return _scroll(["arm, extension", "seed", *map(format_length, lengths)], rows)


def _row(line: Line, texts: list[str]) -> str:
    dot = f'<i class="dot c{line.color % COLORS}"></i>'
    name = f"{dot}{escape(line.arm)}<small>{escape(line.extension)}</small>"
    return f'<tr><th scope="row">{name}</th>{"".join(texts)}</tr>'


def _scroll(titles: list[str], rows: list[str]) -> str:
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return _scrolling(head, rows, "numbers")


def _scrolling(head: str, rows: list[str], kind: str) -> str:
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll">{table}</div>'
