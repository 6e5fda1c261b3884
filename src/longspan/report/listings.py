"""The parts of the report page that list numbers: the best lines, how far they hold, what differs, and full tables."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from longspan.lengths import format_length
from longspan.report.contest import best, contest, names
from longspan.report.effective import effective_rule, rank, ranked_measures
from longspan.report.formats import DASH, format_value
from longspan.report.line_table import LineTable
from longspan.report.metrics import metric_named
from longspan.report.paired import Difference, Pairs
from longspan.report.results import METRICS, Cell, Line, Results, lengths_of
from longspan.report.sections import section, spread_note, tasks_of
from longspan.report.summary import REACH, reach
from longspan.report.tables import Entry, Row, Title, cell_entry, line_row, table

_UNTOLD = " *"
_UNTOLD_NOTE = (
    "* Of some others the records do not tell whether they differ: they share neither scored documents or prompts with "
    "the best line, nor two seeds."
)


def best_table(results: Results, pairs: Pairs) -> str:
    """The best line at each length, and how many others cannot be told from it."""
    found = [(task, METRICS[task]) for task in ("perplexity", "passkey") if results.by_length(task)]
    if not found or len(results.lines) < 2:
        return ""
    titles = [Title("length"), *(Title(f"best {task}") for task, _ in found)]
    lengths = sorted({n for task, metric in found for n in lengths_of(results.by_length(task, metric))})
    rows = [Row(format_length(n), [_best_entry(results, pairs, *place, n) for place in found]) for n in lengths]
    untold = any(entry.text.endswith(_UNTOLD) for row in rows for entry in row.entries)
    note = f'<p class="soft">{escape(_UNTOLD_NOTE)}</p>' if untold else ""
    return table(titles, rows, words=True) + note


def _best_entry(results: Results, pairs: Pairs, task: str, metric: str, length: int) -> Entry:
    found = contest(results, pairs, task, metric, length)
    if found is None:
        return Entry(DASH)
    value = results.by_length(task, metric)[found.leaders[0]][length].value
    small = f"not told apart: {names([line for line, _ in found.close], short=True)}" if found.close else ""
    text = f"{format_value(value, metric)} {names(found.leaders, short=True)}"
    return Entry(text + (_UNTOLD if found.untold else ""), small, value)


def ranking_section(results: Results, threshold: float) -> str:
    """Lines by effective length, a table for each score."""
    parts: list[str] = []
    nowhere: list[tuple[str, str]] = []
    for task, metric in ranked_measures(results):
        ranked = rank(results, task, metric, threshold)
        if not any(item.length for item in ranked):
            nowhere.append((task, metric))
            continue
        titles = [
            Title(text) for text in ("arm, extension", "effective length", f"{metric} there", "lower bound there")
        ]
        rows = []
        for item in ranked:
            if item.cell is None or item.length is None:
                rows.append(line_row(results, item.line, [Entry(DASH, value=0.0), Entry(DASH), Entry(DASH)]))
                continue
            bound = Entry(format_value(item.cell.bound or 0.0, metric), value=item.cell.bound)
            length = Entry(format_length(item.length), value=float(item.length))
            rows.append(line_row(results, item.line, [length, cell_entry(item.cell, metric), bound]))
        heading = f"<h3>{task} {metric}</h3>"
        parts.append(f'<div data-task="{task}">{heading}{table(titles, rows)}</div>')
    if nowhere:
        tasks = ", ".join(f'<span data-task="{task}">{task} {metric}</span>' for task, metric in nowhere)
        parts.append(f"<p>No line holds at the shortest length: {tasks}.</p>")
    note = f"{effective_rule(threshold)} {DASH}: not even at the shortest."
    return section("Effective length", note, "".join(parts)) if parts else ""


def differences_section(results: Results, pairs: Pairs) -> str:
    """Every line against the first, on what both have scored."""
    parts = []
    reference = results.lines[0]
    for task, metric in _compared(results):
        cells = results.by_length(task, metric)
        lengths = lengths_of(cells)
        rows = []
        for line in cells:
            found = [pairs.difference(line, reference, task, metric, length) for length in lengths]
            if line != reference and any(found):
                rows.append(line_row(results, line, [_difference_entry(item, metric) for item in found]))
        if rows:
            titles = [Title("arm, extension"), *(Title(format_length(n), n) for n in lengths)]
            what = "change of perplexity" if metric == "perplexity" else f"difference of {metric_named(metric).title}"
            parts.append(f'<div data-task="{task}"><h3>{task}: {what}</h3>{table(titles, rows)}</div>')
    told = f"Against {reference.label}, on what both have scored."
    if len(results.lines) < 2 or not _compared(results):
        return ""
    if not parts:
        told += (
            " The records do not tell: they keep no score of each document or prompt, and no two lines share two seeds."
            " Intervals of single lines say how documents differ, which is common to all lines."
        )
    else:
        told += (
            " Below each the 95 % interval over documents or prompts, or, marked s, the lowest and highest of the seeds"
            " that both have."
            f" Bold: told apart (of seeds: all on one side). {DASH}: nothing in common, so the records do not tell."
        )
    return section("Paired differences", told, "".join(parts))


def _compared(results: Results) -> list[tuple[str, str]]:
    """The metric that stands for each task, where one way is better."""
    first = [(task, metric) for task, metric in results.measures if metric == METRICS.get(task, metric)]
    known = [(place, metric_named(place[1])) for place in first]
    return [place for place, metric in known if metric.better is not None and not metric.is_cost]


def _difference_entry(found: Difference | None, metric: str) -> Entry:
    if found is None:
        return Entry(DASH)
    ends = [format_difference(end, metric) for end in (found.value, found.low, found.high)]
    mark = " s" if found.unit == "seed" else ""
    small = f"{ends[1].removesuffix(' %')} to {ends[2]}{mark}"
    return Entry(ends[0], small, found.value, found.low, found.high, strong=found.tells_apart)


def format_difference(value: float, metric: str) -> str:
    """`+3.1 %` of a perplexity, `−0.12` of a score, with a sign."""
    number, places, unit = (100 * value, 1, " %") if metric == "perplexity" else (value, 2, "")
    sign = "+" if round(number, places) > 0 else "\N{MINUS SIGN}" if round(number, places) < 0 else ""
    return f"{sign}{abs(number):.{places}f}{unit}"


def tables_section(results: Results) -> str:
    """All numbers by length, a table for each task and metric, and each seed singly."""
    parts = []
    for task in tasks_of(results):
        metrics = [metric for other, metric in results.measures if other == task]
        first = METRICS.get(task, metrics[0])
        tables = "".join(_metric_tables(results, task, metric) for metric in metrics if metric == first)
        more = "".join(_metric_tables(results, task, metric) for metric in metrics if metric != first)
        folded = f"<details><summary>{task}, other metrics</summary>{more}</details>" if more else ""
        parts.append(f'<div data-task="{task}">{tables}{folded}</div>')
    note = f"{spread_note(results)} Bold: the best number of a column. {DASH}: not measured."
    return section("All numbers", note, "".join(parts)) if parts else ""


def line_table_section(results: Results, found: LineTable | None) -> str:
    """A table of its own; empty for None."""
    if found is None:
        return ""
    titles = [Title("arm, extension"), *(Title(column) for column in found.columns)]
    rows = [line_row(results, line, [Entry(text) for text in texts]) for line, texts in found.rows.items()]
    return section(found.title, escape(found.note), table(titles, rows))


def _metric_tables(results: Results, task: str, metric: str) -> str:
    cells = results.by_length(task, metric)
    lengths = lengths_of(cells)
    heading = f"<h3>{task}</h3>" if metric == task else f"<h3>{task}: {metric_named(metric).title}</h3>"
    found = heading + _whole_table(results, cells, task, metric)
    if any(len(cell.seeds) > 1 for row in cells.values() for cell in row.values()):
        seeds = table(
            [Title("arm, extension"), Title("seed"), *(Title(format_length(n), n) for n in lengths)],
            _seed_rows(results, cells, metric),
        )
        found += f"<details><summary>{task}: {metric}, each seed</summary>{seeds}</details>"
    return found


def _whole_table(results: Results, cells: Mapping[Line, Mapping[int, Cell]], task: str, metric: str) -> str:
    lengths = lengths_of(cells)
    judged = metric_named(metric).better is not None
    leaders = {length: best(cells, length, metric)[0] if judged else [] for length in lengths}
    with_reach = (task, metric) == ("passkey", "accuracy")
    titles = [Title("arm, extension"), *(Title(format_length(n), n) for n in lengths)]
    titles += [Title("reach")] if with_reach else []
    rows = []
    for line, row in cells.items():
        entries = [cell_entry(row.get(n), metric, strong=line in leaders[n]) for n in lengths]
        if with_reach:
            reached = reach(results, line)
            entries.append(Entry(format_length(reached) if reached else DASH, value=float(reached or 0)))
        rows.append(line_row(results, line, entries))
    rule = f"at which, as at each shorter one, accuracy is at least {REACH:g} at every depth"
    told = f'<p class="soft">Reach: the longest length {rule}.</p>' if with_reach else ""
    return table(titles, rows) + told


def _seed_rows(results: Results, cells: Mapping[Line, Mapping[int, Cell]], metric: str) -> list[Row]:
    lengths = lengths_of(cells)
    rows = []
    for line, row in cells.items():
        by_seed: dict[int | None, dict[int, float]] = {}
        for length, cell in row.items():
            for seed, value in cell.seeds:
                by_seed.setdefault(seed, {})[length] = value
        for seed, values in by_seed.items():
            head = Entry(DASH) if seed is None else Entry(str(seed), value=float(seed))
            found = [
                Entry(format_value(values[n], metric), value=values[n]) if n in values else Entry(DASH) for n in lengths
            ]
            rows.append(line_row(results, line, [head, *found]))
    return rows
