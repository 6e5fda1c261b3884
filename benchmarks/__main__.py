"""`python -m benchmarks [--out FILE] [--seconds S]`: run everything and keep the records."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from benchmarks.coca_cost import model_costs, released_costs
from longspan.files import write_text
from longspan.records import Record, hardware


def main() -> None:
    """Measure, print, and write the records in place of those of an earlier run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/records.jsonl"))
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each pair of contestants and length")
    arguments = parser.parse_args()
    print(hardware())
    records: list[Record] = []
    for task in ("train-step", "prefill"):
        records += model_costs(task, arguments.seconds)
    with torch.no_grad():
        records += released_costs(arguments.seconds)
    write_text(arguments.out, "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records))
    print(f"{len(records)} records in {arguments.out}")


if __name__ == "__main__":
    main()
