"""`python -m benchmarks [SUITE ...]`: the suites of `longspan bench`, and those that test this project's claims."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.memory import memory_costs
from benchmarks.select_merge import select_merge_costs
from benchmarks.train_short import short_costs
from benchmarks.training_free import training_free_costs
from longspan.bench.runner import run_suites
from longspan.bench.settings import BenchSettings
from longspan.bench.suites import SUITES, Measure
from longspan.records import hardware
from longspan.report.bench import record_line

CLAIMS: dict[str, Measure] = {
    "train-short": short_costs,
    "training-free": training_free_costs,
    "memory": memory_costs,
    "select-merge": select_merge_costs,
}
"""Suites that test what this project says of itself; a user of the package has no use for them."""
OUT = Path("results/benchmarks/records.jsonl")


def main() -> None:
    """Measure on the processor, print, and keep each record as it comes; other suites' records stay."""
    names = [*SUITES, *CLAIMS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(names)}; all if none is named")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each set of contestants and length")
    given = parser.parse_args()
    unknown = [name for name in given.suites if name not in names]
    if unknown:
        parser.error(f"unknown suite {unknown[0]}: choose from {', '.join(names)}")
    print(hardware("cpu"))
    chosen = {
        name: SUITES[name].load() if name in SUITES else CLAIMS[name]
        for name in names
        if name in given.suites or not given.suites
    }
    run_suites(
        chosen,
        BenchSettings(seconds=given.seconds, progress=sys.stderr.isatty()),
        out=given.out,
        say=lambda record: print(record_line(record), flush=True),
    )
    print(f"records in {given.out}")


if __name__ == "__main__":
    main()
