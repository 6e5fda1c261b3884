"""The report in Markdown: what the numbers say, and the tables of every task, for a wiki or an issue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from longspan.files import write_text
from longspan.lengths import format_length
from longspan.report.effective import THRESHOLD, effective_rule, rank, ranked_measures
from longspan.report.formats import DASH, format_cell, format_value
from longspan.report.metrics import metric_named
from longspan.report.origin import commands_of
from longspan.report.page import subtitle, title_of
from longspan.report.results import METRICS, Results, lengths_of
from longspan.report.sources import Sources, builds
from longspan.report.summary import sentences
from longspan.report.table import escape_pipes, table_of


def write_markdown(sources: Sources, out: Path, *, threshold: float = THRESHOLD) -> Path:
    """Write the report about `sources` to `out` and return it."""
    results = sources.results
    told = [f"- {sentence}" for sentence in [*sentences(results, sources.pairs), builds(results)] if sentence]
    parts = [f"# {title_of(results)}", subtitle(results), "\n".join(told)]
    for task, metric in results.measures:
        if metric == METRICS.get(task, metric):
            cells = results.by_length(task, metric)
            heading = f"## {task}" + ("" if metric == task else f": {metric}")
            parts += [heading, metric_named(metric).advice, table_of(cells, lengths_of(cells), metric).strip()]
    for task, metric in ranked_measures(results):
        parts += [f"## Effective length: {task} {metric}", _ranking(results, task, metric, threshold)]
    commands = [command for folder in sources.folders for command in commands_of(folder)]
    parts += ["## Reproduce", "\n".join(f"    {command}" for command in commands)]
    write_text(out, "\n\n".join(part for part in parts if part) + "\n")
    return out


def _ranking(results: Results, task: str, metric: str, threshold: float) -> str:
    rows: list[Sequence[str]] = [["arm", "extension", "effective length", "score there", "lower bound"]]
    rows.append([":--", ":--", "--:", "--:", "--:"])
    for item in rank(results, task, metric, threshold):
        length = format_length(item.length) if item.length else DASH
        bound = format_value(item.cell.bound, metric) if item.cell and item.cell.bound is not None else DASH
        names = [escape_pipes(item.line.arm), escape_pipes(item.line.extension)]
        rows.append([*names, length, format_cell(item.cell, metric), bound])
    return f"{effective_rule(threshold)}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)
