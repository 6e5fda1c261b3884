"""The parts of the report page that say where the numbers come from: commands, settings, commits, machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from longspan.lengths import format_length
from longspan.records import read_records
from longspan.report.formats import DASH
from longspan.report.results import Results
from longspan.report.sections import section
from longspan.report.tables import Entry, Row, Title, table

SETTINGS = ("study.yaml", "cpt.yaml", "run.yaml", "eval.json", "plan.json", "data.json")
"""Files of a run's folder that are shown as they are."""
MOST_SETTINGS = 20_000
"""Characters of one settings file that are shown."""


def reproduce_section(folders: Sequence[Path]) -> str:
    """For every folder and task, the command that makes its numbers and the commit it ran at."""
    rows = []
    for folder in folders:
        records = read_records(folder)
        commits = dict.fromkeys(record.commit or "unknown" for record in records)
        tasks = dict.fromkeys(record.task for record in records)
        for command in commands_of(folder):
            entries = [Entry(", ".join(tasks)), Entry(", ".join(commits)), Entry(command)]
            rows.append(Row(folder.name or str(folder), entries))
    note = (
        "A number is named by its run, task, method, model, length, depth and seed; these commands make all numbers of "
        "a folder, at the commit that stands beside them. All randomness follows from the seeds."
    )
    titles = [Title("folder"), Title("tasks"), Title("commit"), Title("command")]
    return section("Reproduce", note, table(titles, rows, words=True))


def commands_of(folder: Path) -> list[str]:
    """The commands that made the records in `folder`, as far as its files tell."""
    if (folder / "study.yaml").is_file():
        return [f"longspan compare {folder / 'study.yaml'} --out {folder.name}-again"]
    if (folder / "commands.txt").is_file():
        return (folder / "commands.txt").read_text(encoding="utf-8").splitlines()
    if (folder / "run.yaml").is_file():
        return [f"longspan train {folder / 'run.yaml'} --out {folder.name}-again"]
    return ["the folder keeps none: the settings and the commit are all that is known"]


def settings_section(folders: Sequence[Path]) -> str:
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
