"""The report of runs and studies: one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from longspan.errors import DataError
from longspan.files import write_text
from longspan.lengths import format_length
from longspan.records import Record, read_records
from longspan.report.charts import chart_style
from longspan.report.listings import best_table, origin_section, settings_section, tables_section
from longspan.report.matrix import length_section, matrix_section
from longspan.report.results import Results
from longspan.report.sections import curves_section, heat_section, positions_section, shown_lines, switches
from longspan.report.summary import sentences

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the page may load: nothing that does not stand in it."""


def write_report(run_dirs: Sequence[Path], out: Path, title: str | None = None) -> Path:
    """Write the page about `run_dirs` to `out` and return its path.

    Args:
        run_dirs: folders with `records.jsonl`, and the settings files that a run or study leaves beside it.
        out: the .html file to write, or an existing folder that gets a `report.html`.
        title: of the page; None takes the names of the runs.

    Raises:
        DataError: a folder has no records, or none of them holds any.
    """
    folders = [Path(folder) for folder in run_dirs]
    if not folders:
        raise DataError("no run was named: give the folders of the runs to report")
    records = []
    for folder in folders:
        found = read_records(folder)
        if not found:
            raise DataError(f"{folder} holds no records yet: let the run measure something first")
        records.extend(found)
    out = Path(out)
    out = out / "report.html" if out.is_dir() else out
    results = Results(records)
    write_text(
        out, _page(results, records, folders, title or ", ".join(dict.fromkeys(record.run for record in records)))
    )
    return out


def _page(results: Results, records: Sequence[Record], folders: Sequence[Path], title: str) -> str:
    shown = shown_lines(results)
    told = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(results))
    body = "".join(
        [
            f"<header><h1>{escape(title)}</h1><p class='soft'>{escape(_subtitle(results))}</p></header>",
            f'<section class="headline">{told}{best_table(results)}</section>',
            switches(results, shown),
            curves_section(results, shown),
            positions_section(results, shown),
            heat_section(results, shown),
            length_section(records),
            matrix_section(records),
            tables_section(results),
            settings_section(list(folders)),
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


def _subtitle(results: Results) -> str:
    def count(number: int, name: str) -> str:
        return f"{number} {name}{'' if number == 1 else 's'}"

    seeds = len({record.seed for record in results.records if record.seed is not None})
    parts = [count(len(results.arms), "arm"), count(len(results.lines), "line")]
    parts += [count(seeds, "seed")] if seeds else []
    if results.train_lengths:
        parts.append(f"trained at {', '.join(map(format_length, results.train_lengths))} tokens")
    parts.append(max(record.when for record in results.records)[:10])
    return " · ".join(parts)
