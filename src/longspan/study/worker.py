"""`python -m longspan.study.worker OUT ARM SEED THREADS`: one arm in a process of its own, started by the pool.

It reports on standard output, one JSON object a line, and stops, state kept, when its standard input closes: so it
never outlives the study, however that ends.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run the arm and return the exit code: 0, 1 after a mistake that was reported, 130 when told to stop."""
    folder, arm, seed, threads = arguments
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to the log

    def report(**values: Any) -> None:
        print(json.dumps(values), file=reports)

    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        from longspan.errors import LongspanError
        from longspan.study.arm import ArmRun, run_arm
        from longspan.study.run import read_study

        try:
            run = ArmRun(read_study(Path(folder)), Path(folder), arm, int(seed))
            run_arm(run, lambda step: report(step=dataclasses.asdict(step)), threads=int(threads))
        except LongspanError as error:
            report(error=str(error))
            return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        report(error=f"{type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    return 0


def _stop_with_parent() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
