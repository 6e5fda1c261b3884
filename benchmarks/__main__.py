"""`python -m benchmarks [SUITE ...] [--out FILE] [--seconds S]`: run suites and keep their records."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.cache import cache_costs
from benchmarks.coca_cost import model_costs, released_costs
from benchmarks.evaluate import evaluation_costs
from benchmarks.memory import memory_costs
from benchmarks.select_merge import select_merge_costs
from benchmarks.train_loop import loop_costs
from benchmarks.train_short import short_costs
from benchmarks.training_free import training_free_costs
from longspan.files import write_text
from longspan.records import Record, hardware, read_records

SUITES: dict[str, Callable[[float], Iterator[Record]]] = {
    "train-step": functools.partial(model_costs, "train-step"),
    "train-loop": loop_costs,
    "prefill": functools.partial(model_costs, "prefill"),
    "released": torch.no_grad()(released_costs),
    "cache": cache_costs,
    "train-short": short_costs,
    "training-free": training_free_costs,
    "memory": memory_costs,
    "select-merge": select_merge_costs,
    "evaluate": evaluation_costs,
}


def main() -> None:
    """Measure, print, and put each record into the file as it comes; other suites' records stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all if none is named")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/records.jsonl"))
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each set of contestants and length")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - set(SUITES)
    if unknown:
        parser.error(f"unknown suite {sorted(unknown)[0]}: choose from {', '.join(SUITES)}")
    print(hardware())
    for suite in arguments.suites or SUITES:
        kept = read_records(arguments.out) if arguments.out.exists() else []
        kept = [record for record in kept if record.run != f"benchmarks/{suite}"]
        for record in SUITES[suite](arguments.seconds):
            kept.append(dataclasses.replace(record, run=f"benchmarks/{suite}"))
            write_text(arguments.out, "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in kept))
    print(f"records in {arguments.out}")


if __name__ == "__main__":
    main()
