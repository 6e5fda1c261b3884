"""How long the shell waits: importing longspan, and `longspan --help`, each in a process of its own."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator

from longspan.bench.paired import seconds_records, take_turns
from longspan.bench.settings import BenchSettings
from longspan.records import Record

COMMANDS = {
    "bare python": ("-c", "pass"),
    "import longspan": ("-c", "import longspan"),
    "longspan --help": ("-m", "longspan", "--help"),
}
TURNS = 10


def start_costs(settings: BenchSettings) -> Iterator[Record]:
    """Seconds of each command, the interpreter's own start included."""
    calls = {
        name: functools.partial(subprocess.run, [sys.executable, *words], capture_output=True, check=True)
        for name, words in COMMANDS.items()
    }
    times = take_turns(calls, seconds=settings.seconds, least=TURNS, label="start", progress=settings.progress)
    yield from seconds_records(times, "start", None)
