"""Records: the one form in which results are kept, one JSON object a line."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from longspan.errors import DataError
from longspan.jsonl import append_rows, read_rows

SCHEMA = 1
"""Version of the columns of a record, raised when one changes its meaning; a record without it is of schema 1."""


@functools.cache
def commit() -> str | None:
    """The commit of the source tree that runs (`-dirty` if it was changed since), or None outside a repository."""
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        # an installed copy may lie inside the repository of another project, which does not track it
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("-dirty" if changed.returncode else "")


@functools.cache
def versions() -> str:
    """Versions that decide the numbers, as one line: `python 3.11.7, torch 2.13.0, ...`."""
    names = ("longspan", "torch", "transformers", "tokenizers", "numpy")
    found = [f"{name} {_version(name)}" for name in names]
    return ", ".join([f"python {platform.python_version()}", *found])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # run from its source, uninstalled
        return "unreleased"


def hardware(device: str | None = None) -> str:
    """The accelerator in use, else the processor and its cores; `device` "cpu" names the processor in any case."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One measured number. Absent is None; length and depth are columns, never part of a name."""

    run: str
    """Names the run or study that the number belongs to."""
    method: str
    """Methods in force when it was measured, as `longspan methods` spells them: `coca+yarn`."""
    model: str
    """Folder or name of the model; in a study, the arm."""
    task: str
    """`perplexity`, `position`, `passkey`, `train`, `attention`, ..."""
    metric: str
    """`perplexity`, `nll`, `accuracy`, `seconds`, `bytes`, ..."""
    value: float | None
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    n: int | None = None
    """How many things (tokens, trials, repeats) the value rests on."""
    train_length: int | None = None
    length: int | None = None
    """Tokens in the model's window when measured."""
    depth: float | None = None
    """Place inside the window, 0 (start) to 1 (end)."""
    distance: int | None = None
    """Tokens between what an answer needs and the answer."""
    seed: int | None = None
    stage: int | None = None
    """Stage of continual training after which it was measured; 0 before the first."""
    domain: str | None = None
    """Domain that it was measured on, or that the stage learned."""
    note: str | None = None
    """Why there is no value, where a reader would look for one."""
    commit: str | None = field(default_factory=commit)
    versions: str = field(default_factory=versions)
    hardware: str = field(default_factory=hardware)
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    schema: int = SCHEMA
    """Version of these columns."""


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Add `records` to the end of `path`, flushed to disk; a line torn by a crash is mended first."""
    append_rows(path, records, _parse_record)


def read_records(path: Path) -> list[Record]:
    """All whole records of `path`, or of `records.jsonl` in it if it is a folder.

    Raises:
        DataError: the file is missing, a line is no record, or a newer longspan has written it; only a last line that a
            crash has torn, so that it lacks its newline, is passed over: it will be measured again.
    """
    path = Path(path)
    path = path / "records.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path} does not exist: run `longspan eval` or `longspan compare` first")
    records = read_rows(path, _parse_record, "record")
    newer = next((record for record in records if record.schema > SCHEMA), None)
    if newer is not None:
        raise DataError(
            f"{path} holds records of schema {newer.schema}, this longspan reads up to schema {SCHEMA}: "
            f"upgrade longspan, or use the one that wrote them ({newer.versions})"
        )
    return records


def _parse_record(row: dict[str, Any]) -> Record:
    known = {item.name for item in fields(Record)}
    return Record(**{key: value for key, value in row.items() if key in known})
