"""Write every generated page from the code and the committed records; with --check, fail if one would change."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from longspan.cli import main as longspan
from longspan.evaluate.tasks import page as tasks_page
from longspan.files import write_json, write_text
from longspan.lengths import format_bytes, format_length
from longspan.planner.activations import Work, peak_bytes
from longspan.planner.reach import own_reach
from longspan.records import Record, read_records
from longspan.report import markdown_table, update_readme, write_picture
from longspan.report.bench import bench_section, ratio_table, write_bench_plots
from longspan.report.results import Results
from longspan.report.sections import all_lengths, shown_lines
from longspan.report.summary import sentences
from longspan.study.run import read_study, results_table

ROOT = Path(__file__).resolve().parents[1]
STUDY = Path("results/books-256")
"""The study that the README shows."""
PLAN, SCALING, BENCH = Path("docs/plan.md"), Path("docs/scaling.md"), Path("docs/bench.md")
BENCHMARKS = Path("results/benchmarks")
REACH = Path("src/longspan/planner/reach.json")
"""The reach of each line of the studies, which `longspan plan` tells."""
_EIGHT_BILLION = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
"""The model of the table in docs/scaling.md, with so many layers:"""
_LAYERS = 32
_EIGHT_BILLION_BYTES = 16 * 8_030_261_248
"""Weight, gradient and both moments of each of its parameters, in float32."""
SHOWN = ("plain", "ntk", "yarn(beta_fast=9.2)")
"""Extensions in the README's tables; the study's own table has them all."""


def main() -> int:
    """Generate into the tree, or into a copy of it that is compared with the tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("README.md", "docs", "results"):
            source = ROOT / name
            shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy / name)
        changed = [path for path in generate(copy) if not _same(copy / path, ROOT / path)]
    for path in changed:
        print(f"{path} is out of date: run 'make docs' and commit it", file=sys.stderr)
    return 1 if changed else 0


def _same(made: Path, there: Path) -> bool:
    return there.exists() and made.read_bytes() == there.read_bytes()


def generate(root: Path) -> list[Path]:
    """Write all generated pages below `root`; their paths from there."""
    methods, tasks, readme = Path("docs/methods.md"), Path("docs/tasks.md"), Path("README.md")
    longspan(["methods", "--markdown", str(root / methods), "--quiet"])
    write_text(root / tasks, tasks_page())
    os.environ.setdefault("LONGSPAN_DATA", "data")  # the study files name it; nothing is read from there
    written = (path.parent for path in root.glob("results/*/study.yaml"))
    studies = sorted(path.relative_to(root) for path in written if (path / "records.jsonl").exists())  # others wait
    pages = [page for study in studies for page in _study_pages(root, study)]
    records = read_records(root / STUDY)
    shown = _shown(records)
    tables = {f"{STUDY.name}-{task}": markdown_table(shown, task=task) for task in ("perplexity", "passkey")}
    tables[f"{STUDY.name}-summary"] = "\n".join(f"- {sentence}" for sentence in sentences(Results(records)))
    costs = read_records(root / BENCHMARKS)
    tables["benchmarks"] = _costs(costs)
    update_readme(root / readme, tables)
    update_readme(root / PLAN, {"memory": _memory(costs)})
    update_readme(root / SCALING, {"memory": _shared_memory()})
    bench = _bench_page(root)
    rows = [
        row
        for study in studies
        if (size := _size(root / study)) is not None
        for row in own_reach(study.name, size, read_records(root / study))
    ]
    write_json(root / REACH, [dataclasses.asdict(row) for row in rows])
    return [methods, tasks, *pages, *bench, readme, PLAN, SCALING, REACH]


def _size(study: Path) -> str | None:
    """The size of a study's models; None where they go on from trained ones."""
    size: str | None = read_study(study).run["model"].get("size")
    return size


def _study_pages(root: Path, study: Path) -> list[Path]:
    """Write the table of all numbers, and the picture of two lengths or more: of the arms as trained where they were
    trained from scratch, else of the lines that the report opens with.
    """
    records = read_records(root / study)
    table, picture = study / "table.md", study / "picture.svg"
    (root / table).write_text(results_table(read_study(root / study), records), encoding="utf-8")
    results = Results(records)
    if len(all_lengths(results)) < 2:
        return [table]
    shown = shown_lines(results)
    lines = [(line.arm, line.extension) for line in results.lines if line in shown]
    if _size(root / study) is not None:
        # an arm is measured as it was trained before anything else
        measured = (results.line_of(record) for record in records if record.task == "perplexity")
        first: dict[str, str] = {}
        for line in measured:
            first.setdefault(line.arm, line.extension)
        lines = list(first.items())
    write_picture(records, root / picture, lines=lines)
    return [table, picture]


def _shown(records: list[Record]) -> list[Record]:
    """The records behind the README's tables: every arm, under the extensions shown there."""
    results = Results(records)
    return [record for record in records if results.line_of(record).extension in SHOWN]


def _costs(records: list[Record]) -> str:
    """The README's ratios: all of time, and of memory where another way takes many times as much."""
    return ratio_table([record for record in records if record.metric == "ratio" or "released" in record.method])


def _bench_page(root: Path) -> list[Path]:
    """Write the tables of docs/bench.md and its pictures, of each file of records; what was written."""
    parts, written = [], [BENCH]
    for name, folder in {"records.jsonl": "cpu", "gpu.jsonl": "gpu"}.items():
        path = root / BENCHMARKS / name
        records = read_records(path) if path.exists() else []
        records = [record for record in records if record.run != "benchmarks/memory"]  # docs/plan.md has those
        if records:
            pictures = write_bench_plots(records, root / BENCHMARKS / folder)
            written += [picture.relative_to(root) for picture in pictures]
            parts.append(bench_section(records, [os.path.relpath(path, root / "docs") for path in pictures]))
    update_readme(root / BENCH, {"records": "\n\n".join(parts)})
    return written


def _memory(records: list[Record]) -> str:
    """Predicted over measured bytes: a row for each family, a column for each kind of work, caches together."""
    measured: dict[tuple[object, ...], dict[str, float]] = {}
    for record in records:
        if record.run == "benchmarks/memory" and record.value is not None:
            place = (record.model, record.method, record.task, record.length)
            measured.setdefault(place, {})[record.metric] = record.value
    found: dict[str, dict[str, list[float]]] = {}
    for (family, _, task, _), values in measured.items():
        work = "cache" if str(task).startswith("cache") else str(task).rpartition(", ")[0]
        ratio = values["predicted bytes"] / values["bytes"]
        found.setdefault(str(family), {}).setdefault(work, []).append(ratio)
    works = list(dict.fromkeys(work for row in found.values() for work in row))
    lines = [f"| family | {' | '.join(works)} |", "|---|" + "--:|" * len(works)]
    for family, row in found.items():
        cells = [_span(row[work]) if work in row else "–" for work in works]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shared_memory() -> str:
    """What a GPU holds while a Llama of 8 billion parameters trains: weights and theirs, and activations."""
    weights = _EIGHT_BILLION_BYTES / 8
    lines = [
        "| window | `longspan plan`, checkpointing | 8 GPUs, `fsdp` | 8 GPUs, `fsdp`, `context: 8` |",
        "|---|--:|--:|--:|",
    ]
    for length in (16 * 1024, 128 * 1024):
        # layers are equal, so that each adds as much as the second did
        one, two = (_training_bytes(layers, length) for layers in (1, 2))
        activations = one + (_LAYERS - 1) * (two - one)
        sums = [
            f"{_gib(weights)} + {_gib(part)} = {_gib(weights + part)} GiB" for part in (activations, activations / 8)
        ]
        lines.append(f"| {format_length(length)} | {format_bytes(activations)} | {' | '.join(sums)} |")
    return "\n".join(lines)


def _training_bytes(layers: int, length: int) -> int:
    """Activations of one sequence in bfloat16 with checkpointing, as `longspan plan` counts them."""
    config = LlamaConfig(num_hidden_layers=layers, **_EIGHT_BILLION)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return peak_bytes(model, length, torch.bfloat16, Work(training=True, checkpointing=True))


def _gib(number: float) -> str:
    return f"{number / 2**30:.0f}"


def _span(ratios: list[float]) -> str:
    low, high = (f"{ratio:.3f}" for ratio in (min(ratios), max(ratios)))
    return low if low == high else f"{low}–{high}"


if __name__ == "__main__":
    sys.exit(main())
