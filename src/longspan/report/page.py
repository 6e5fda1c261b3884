"""The report of runs and studies: one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from longspan.files import write_text
from longspan.lengths import format_length
from longspan.report.charts import chart_style
from longspan.report.cost import cost_table, short_context_table
from longspan.report.distance import distance_table
from longspan.report.effective import THRESHOLD
from longspan.report.formats import count
from longspan.report.listings import (
    best_table,
    differences_section,
    line_table_section,
    ranking_section,
    tables_section,
)
from longspan.report.matrix import length_section, matrix_section
from longspan.report.origin import origin_section, reproduce_section, settings_section
from longspan.report.results import Results
from longspan.report.sections import (
    costs_section,
    curves_section,
    filters,
    heat_sections,
    inside_section,
    shown_lines,
)
from longspan.report.sources import Sources, builds, read_sources
from longspan.report.summary import sentences

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the page may load: nothing that does not stand in it."""


def write_report(
    run_dirs: Sequence[Path], out: Path, title: str | None = None, *, threshold: float = THRESHOLD
) -> Path:
    """Write the page about `run_dirs` to `out` and return its path.

    Args:
        run_dirs: folders with `records.jsonl`, and the scores and settings that a run or study leaves beside it.
        out: the .html file to write, or an existing folder that gets a `report.html`.
        title: of the page; None takes the names of the runs.
        threshold: score that holds, for effective lengths.

    Raises:
        DataError: a folder has no records, none of them holds any, or two hold different numbers for one measurement.
    """
    return write_page(read_sources(run_dirs), out, title, threshold=threshold)


def write_page(sources: Sources, out: Path, title: str | None = None, *, threshold: float = THRESHOLD) -> Path:
    """Write the page about `sources` to `out` and return its path; arguments as in `write_report`."""
    out = Path(out)
    out = out / "report.html" if out.is_dir() else out
    write_text(out, _page(sources, title or title_of(sources.results), threshold))
    return out


def title_of(results: Results) -> str:
    """The names of the runs."""
    return ", ".join(dict.fromkeys(record.run for record in results.records if record.run)) or "longspan"


def _page(sources: Sources, title: str, threshold: float) -> str:
    results, pairs, folders = sources.results, sources.pairs, sources.folders
    shown = shown_lines(results)
    told = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(results, pairs))
    mixture = builds(results)
    warning = f'<p class="warning">{escape(mixture)}</p>' if mixture else ""
    body = "".join(
        [
            f"<header><h1>{escape(title)}</h1><p class='soft'>{escape(subtitle(results))}</p></header>",
            f'<section class="headline">{told}{warning}{best_table(results, pairs)}</section>',
            filters(results, shown),
            curves_section(results, shown),
            ranking_section(results, threshold),
            differences_section(results, pairs),
            inside_section(results, shown),
            heat_sections(results, shown),
            length_section(results.records),
            matrix_section(results.records),
            line_table_section(results, distance_table(results)),
            line_table_section(results, short_context_table(results)),
            line_table_section(results, cost_table(results)),
            costs_section(results, shown),
            tables_section(results),
            reproduce_section(folders),
            settings_section(folders),
            origin_section(results),
        ]
    )
    folder = Path(__file__).parent
    style = chart_style() + (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{style}</style></head>'
        f'<body><main>{body}</main><div id="tip" hidden></div><script>{script}</script></body></html>\n'
    )


def subtitle(results: Results) -> str:
    """How much the report rests on: arms, lines, seeds, training lengths and the day of the last number."""
    seeds = len({record.seed for record in results.records if record.seed is not None})
    parts = [count(len(results.arms), "arm"), count(len(results.lines), "line")]
    parts += [count(seeds, "seed")] if seeds else []
    if results.train_lengths:
        parts.append(f"trained at {', '.join(map(format_length, results.train_lengths))} tokens")
    parts.append(max(record.when for record in results.records)[:10])
    return " · ".join(parts)
