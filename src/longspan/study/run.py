"""A study in a folder: prepared, trained, measured, reported; skipped where done, taken up where it stopped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from longspan.errors import ConfigError, TrainingError
from longspan.files import alone_in, write_json, write_text
from longspan.jsonl import write_rows
from longspan.records import Record, read_records
from longspan.report import markdown_table, write_report
from longspan.report.cost import cost_table, short_context_table
from longspan.report.distance import distance_table
from longspan.report.results import Results
from longspan.report.table import markdown_of, table_note
from longspan.scores import SCORES_FILE, read_scores
from longspan.study.arm import ArmRun, arm_runs
from longspan.study.config import StudyConfig
from longspan.study.gate import gate_line, gate_records
from longspan.study.inputs import DATA_FILE, prepare_inputs
from longspan.study.pool import run_all
from longspan.study.progress import StudyBar
from longspan.train.run import check_settings

STUDY_FILE, RECORDS_FILE, TABLE_FILE, REPORT_FILE = "study.yaml", "records.jsonl", "table.md", "report.html"
TITLES = {"perplexity": "Perplexity", "passkey": "Passkey"}


def compare(config: StudyConfig, out: Path | str, *, jobs: int = 1, progress: bool = True) -> Path:
    """Train every arm with every seed on the same data, measure all cells, and report; returns `out`.

    Everything finished is kept: called again after a stop or a failure, it goes on from there. In `out` appear
    `study.yaml`, `runs/ARM-SEED/` (as `train` leaves them), and at the end `records.jsonl`, `scores.jsonl`,
    `table.md`, `report.html`.

    Args:
        jobs: arms run at the same time, each in a process of its own with its share of the processor's cores.
        progress: show a bar on stderr.

    Raises:
        ConfigError: settings that cannot be used or are not those of a run already in `out`, or another process is at
            work there; nothing in `out` has been changed.
        DataError, LengthError: text that is missing, too short or not what the study began with.
        TrainingError: some arms failed; the others are finished and reported.
        KeyboardInterrupt: after Ctrl-C; all states are saved first.
    """
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}: it must be at least 1")
    out = Path(out)
    with alone_in(out):
        config.check_runs("study")
        runs = arm_runs(config, out)
        for run in runs:
            check_settings(run.study.run_config(run.arm, run.seed), run.folder)
        prepare_inputs(config, out, progress=progress)
        write_text(out / STUDY_FILE, yaml.safe_dump(config.to_json(), sort_keys=False, allow_unicode=True))
        work = {run.name: run.work for run in runs}
        with StudyBar(config.name, work, sum(len(run.cells) for run in runs), shown=progress) as bar:
            failures = run_all(runs, jobs, bar)
        finished = [run for run in runs if run.name not in failures]
        if finished:
            write_results(config, finished, out)
    if failures:
        name, reason = next(iter(failures.items()))
        count = f"{len(failures)} of {len(runs)} runs failed"
        raise TrainingError(f"{count}; {name}: {reason} (the others are in {out}; run again to go on)")
    return out


def read_study(out: Path) -> StudyConfig:
    """The study whose results are in the folder `out`."""
    return StudyConfig.from_yaml(out / STUDY_FILE)


def write_results(config: StudyConfig, runs: Sequence[ArmRun], out: Path) -> None:
    """Put the records of finished `runs` together, in the order of the study, and make the table and the page.

    What the measuring rests on, such as the attention kernel, is added to `data.json`.
    """
    records = [record for run in runs for record in _records_of(run)]
    gates = gate_records(config, records)
    measuring = {run.name: json.loads(run.measuring_file.read_text(encoding="utf-8")) for run in runs}
    data = json.loads((out / DATA_FILE).read_text(encoding="utf-8"))
    write_json(out / DATA_FILE, {**data, "measuring": measuring})
    write_rows(out / SCORES_FILE, [score for run in runs for score in read_scores(run.folder)])
    write_rows(out / RECORDS_FILE, [*gates, *records])
    write_text(out / TABLE_FILE, results_table(config, records))
    write_report([out], out / REPORT_FILE, title=config.name)


def results_table(config: StudyConfig, records: Sequence[Record]) -> str:
    """Perplexity and passkey by length in Markdown, each with a line on what the numbers are, and the gate.

    Then, where they were measured, passkey by distance, short context, and cost.
    """
    measured = {record.task for record in records}
    parts = [f"# {config.name}\n"]
    line = gate_line(config, gate_records(config, records))
    for task, title in TITLES.items():
        if task in measured:
            note = table_note(records, task=task)
            gate = f"\n{line}\n" if task == "passkey" and line is not None else ""
            parts.append(f"## {title}\n\n{note}\n{gate}\n{markdown_table(records, task=task)}")
    results = Results(records)
    for table in (distance_table(results), short_context_table(results), cost_table(results)):
        if table is not None:
            parts.append(f"## {table.title}\n\n{table.note}\n\n{markdown_of(table)}")
    return "\n".join(parts)


def _records_of(run: ArmRun) -> list[Record]:
    """Records of the training and of the cells of one run, under the names of the study."""
    # a method whose settings training has filled in spells those, too; the study knows it as it was asked for
    method = run.study.methods_in_force(run.arm)
    training = [
        dataclasses.replace(record, run=run.study.name, model=run.arm, seed=run.seed, method=method)
        for record in read_records(run.folder)
        if record.task == "train"
    ]
    return [*training, *read_records(run.measured_file)]
