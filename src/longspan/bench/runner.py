"""Run suites one after the other and keep their records, each as it comes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from longspan.bench.settings import BenchSettings
from longspan.bench.suites import Measure
from longspan.files import write_text
from longspan.records import Record, hardware, read_records


def run_suites(
    suites: Mapping[str, Measure],
    settings: BenchSettings,
    *,
    out: Path | None = None,
    say: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """The records of `suites`, under the run `benchmarks/NAME`.

    Args:
        suites: by name, in the order in which they run.
        settings: of all of them.
        out: a file that each record is put into as it comes, whole at any moment; records of other suites that are
            there stay. None writes nothing.
        say: is told of each record.

    Raises:
        DataError: `out` is there and holds something else than records. StorageError: it cannot be written.
    """
    kept = read_records(out) if out is not None and out.exists() else []
    found = []
    where = hardware(settings.device.type)
    for name, measure in suites.items():
        run = f"benchmarks/{name}"
        kept = [record for record in kept if record.run != run]
        for record in measure(settings):
            record = dataclasses.replace(record, run=run, hardware=where)
            found.append(record)
            kept.append(record)
            if out is not None:
                write_text(out, "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in kept))
            say(record)
    return found
