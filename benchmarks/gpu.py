"""Everything that needs an accelerator, in one call: `python -m benchmarks.gpu`. It ends within nine minutes.

First the tests marked `gpu`, then each suite in bfloat16. Each is a process of its own with a limit on its time, so
that whatever goes wrong in one (a kernel that does not compile, memory, a crash of CUDA itself) leaves the others
alone; what it had measured by then is kept, and a record says what went wrong. Where longspan is not installed, set
PYTHONPATH=src.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from longspan.bench.paired import left_out
from longspan.files import write_text
from longspan.records import Record, append_records, hardware, read_records

OUT = Path("results/benchmarks/gpu.jsonl")
BUDGET = 510.0
"""Seconds of the whole call: what begins late gets what is left."""
SUITES = {"cache": 80, "attention": 100, "train": 90, "prefill": 80, "loop": 40, "eval": 35}
"""Seconds at the most for each suite, the most wanted first."""
TESTS_NAME, TESTS = "gpu tests", 80
"""What the tests are called, and their seconds."""
PYTEST = ("-m", "gpu", "-q", "-p", "no:cacheprovider", "--timeout", "60", "-o", "addopts=--import-mode=importlib")
"""Without the project's own options, which want packages that check shapes."""
MARGIN = 5.0
"""Seconds that a process has to end in after it was told to."""


def run_step(name: str, command: Sequence[str], limit: float, log: Path) -> str | None:
    """Run `command` for at most `limit` seconds, its output to `log` as well; the reason if it failed, else None."""
    print(f"== {name}, {limit:.0f} s at the most", flush=True)
    start = time.monotonic()
    with log.open("ab") as file:
        file.write(f"== {name}: {' '.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(MARGIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return f"stopped after {limit:.0f} s"
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
    print(f"   exit code {code} after {time.monotonic() - start:.0f} s: {last[:200]}", flush=True)
    return None if code == 0 else f"exit code {code}: {last[:300]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps; 0 if each of them ended well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="file of the records")
    parser.add_argument("--log", type=Path, default=Path("gpu.log"), help="file of everything that is said")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each set of contestants and length")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu is for a rehearsal")
    parser.add_argument("--suites", nargs="*", choices=list(SUITES))
    parser.add_argument("--no-tests", action="store_true")
    given = parser.parse_args(arguments)
    end = time.monotonic() + BUDGET
    print(hardware(given.device), flush=True)
    for path in (given.log, given.out):
        path.parent.mkdir(parents=True, exist_ok=True)
    given.log.write_text("", encoding="utf-8")
    python = [sys.executable, "-u", "-m"]
    bench = ["longspan", "bench", "--quiet", "--seconds", str(given.seconds), "--out", str(given.out)]
    kept = read_records(given.out) if given.out.exists() else []
    kept = [record for record in kept if record.run != f"benchmarks/{TESTS_NAME}"]  # a suite's go when it runs again
    write_text(given.out, "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in kept))
    steps = [] if given.no_tests else [(TESTS_NAME, [*python, "pytest", *PYTEST], TESTS)]
    steps += [
        (name, [*python, *bench, "--suite", name, "--device", given.device], limit)
        for name, limit in SUITES.items()
        if given.suites is None or name in given.suites
    ]
    failures = 0
    for name, command, limit in steps:
        left = end - time.monotonic() - MARGIN
        reason = "no time was left" if left < MARGIN else run_step(name, command, min(limit, left), given.log)
        if reason is None:
            continue
        failures += 1
        print(f"   {name}: {reason}", flush=True)
        append_records(given.out, [_failure(name, reason, given.device)])
    print(f"{failures} of {len(steps)} steps failed; records in {given.out}, output in {given.log}", flush=True)
    return 1 if failures else 0


def _failure(name: str, reason: str, device: str) -> Record:
    """Why a step is not whole, under its own suite: the next run of the suite takes its place."""
    record = left_out(name, name, reason)
    return dataclasses.replace(record, run=f"benchmarks/{name}", hardware=hardware(device))


if __name__ == "__main__":
    sys.exit(main())
