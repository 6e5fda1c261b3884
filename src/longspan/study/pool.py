"""Running the arms of a study: one after the other in this process, or several at once in their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TextIO

from longspan.errors import LongspanError
from longspan.study.arm import ArmRun, run_arm
from longspan.study.progress import Step, StudyBar

_GRACE_SECONDS = 60
"""How long a worker may take to save its state when it is told to stop."""


def run_all(runs: Sequence[ArmRun], jobs: int, bar: StudyBar) -> dict[str, str]:
    """Run all of `runs`, at most `jobs` at once; what failed and why, by name.

    A failure does not keep the others from running.

    Raises:
        KeyboardInterrupt: passed on after all workers have saved their state.
    """
    if jobs == 1:
        return _run_here(runs, bar)
    return _Pool(bar, max(1, available_cores() // jobs)).run(runs, jobs)


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_here(runs: Sequence[ArmRun], bar: StudyBar) -> dict[str, str]:
    failures = {}
    for run in runs:
        try:
            run_arm(run, lambda step, name=run.name: bar.update(name, step))  # type: ignore[misc]
        except LongspanError as error:
            failures[run.name] = str(error)
            bar.write(f"{run.name} failed: {error}")
    return failures


class _Pool:
    """Workers in processes of their own; each has one thread here that listens to it."""

    def __init__(self, bar: StudyBar, threads: int) -> None:
        self.bar, self.threads = bar, threads
        self.failures: dict[str, str] = {}
        self._working: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def run(self, runs: Sequence[ArmRun], jobs: int) -> dict[str, str]:
        """All of `runs`, `jobs` at a time."""
        with ThreadPoolExecutor(jobs) as executor:
            futures = [executor.submit(self._run_one, run) for run in runs]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self._stop()
                executor.shutdown(wait=True, cancel_futures=True)
                raise
        return self.failures

    def _run_one(self, run: ArmRun) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        with (run.folder / "worker.log").open("a") as log:
            worker = self._start(run, log)
            if worker is None:
                return
            assert worker.stdout is not None
            problem = None
            for line in worker.stdout:
                message = json.loads(line)
                if "step" in message:
                    self.bar.update(run.name, Step(**message["step"]))
                problem = message.get("error", problem)
            code = worker.wait()
        with self._lock:
            self._working.discard(worker)
        if code and not self._stopping:
            problem = problem or f"its process ended with code {code}; see {run.folder / 'worker.log'}"
            self.failures[run.name] = problem
            self.bar.write(f"{run.name} failed: {problem}")

    def _start(self, run: ArmRun, log: TextIO) -> subprocess.Popen[str] | None:
        arguments = [str(run.out), run.arm, str(run.seed), str(self.threads)]
        # an editable install or PYTHONPATH may be all that makes the package known: hand on what made it known here
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "PYTHONPATH": paths}
        with self._lock:
            if self._stopping:
                return None
            worker = subprocess.Popen(
                [sys.executable, "-m", "longspan.study.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                start_new_session=True,  # Ctrl-C reaches this process, which tells its workers once
            )
            self._working.add(worker)
            return worker

    def _stop(self) -> None:
        """Have all workers save their state and end."""
        with self._lock:
            self._stopping = True
            working = list(self._working)
        for worker in working:
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()
        for worker in working:
            try:
                worker.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
