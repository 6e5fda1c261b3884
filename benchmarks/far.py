"""How far a trained model retrieves: passkey by length, the seconds a prompt takes, and the peak memory of reading it.

`python -m benchmarks.far CHECKPOINT --lengths 64k,256k,1m --out FILE`. A length is a process of its own, for its peak;
its records are added as it ends, and lengths that the file holds are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.process_memory import peak_bytes
from longspan.evaluate import passkey
from longspan.lengths import parse_lengths
from longspan.models import load_model, load_tokenizer
from longspan.records import Record, append_records, read_records

RUN = "benchmarks/far"


def measure(checkpoint: str, length: int, depths: int, trials: int, seed: int) -> list[Record]:
    """Accuracy and answer NLL by depth (one forward a prompt, answers forced), seconds a prompt, and peak bytes."""
    model, tokenizer = load_model(checkpoint, device="cpu"), load_tokenizer(checkpoint)
    records: list[Record] = []
    grid: dict[str, Any] = {"lengths": [length], "depths": depths, "trials": trials, "seed": seed}

    def read() -> None:
        records.extend(passkey(model, tokenizer, **grid, decoding="forced", batch_size=1, run=RUN))

    start = time.perf_counter()
    peak = peak_bytes(read)
    seconds = (time.perf_counter() - start) / (depths * trials)
    whole = dataclasses.replace(records[-1], low=None, high=None)
    seconds_row = dataclasses.replace(whole, metric="seconds", value=seconds)
    return [*records, seconds_row, dataclasses.replace(whole, metric="bytes", value=float(peak))]


def main() -> None:
    """Measure the lengths that are missing, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--lengths", default="64k,256k,1m")
    parser.add_argument("--depths", type=int, default=5)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.out is None:  # the process of one length
        (length,) = parse_lengths(given.lengths)
        found = measure(given.checkpoint, length, given.depths, given.trials, given.seed)
        print(json.dumps([dataclasses.asdict(record) for record in found]))
        return
    done = {record.length for record in read_records(given.out)} if given.out.exists() else set()
    settings = ["--depths", str(given.depths), "--trials", str(given.trials), "--seed", str(given.seed)]
    for length in parse_lengths(given.lengths):
        if length in done:
            continue
        command = [sys.executable, "-m", "benchmarks.far", given.checkpoint, "--lengths", str(length), *settings]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        records = [Record(**row) for row in json.loads(output.splitlines()[-1])]
        append_records(given.out, records)
        for record in records:
            if record.depth is None:
                print(f"{length:>9} {record.metric:>9} {record.value:.6g} ({record.low} to {record.high})", flush=True)


if __name__ == "__main__":
    main()
