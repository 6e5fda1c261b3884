"""Rows of the files of external sets: found in the user's folder, read line by line, malformed ones counted."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from longspan.errors import ConfigError, DataError

_log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")


def find_files(folder: str | None, pattern: str, what: str) -> list[Path]:
    """Files in `folder`, or in one below it, that fit `pattern`, in the order of their names.

    Raises:
        ConfigError: no folder was named, or there is none.
        DataError: it has no such file.
    """
    if folder is None:
        raise ConfigError(f"--data is missing: {what} reads {pattern}, name the folder that has it")
    if not Path(folder).is_dir():
        raise ConfigError(f"--data: no folder {folder}")
    found = sorted(path for path in Path(folder).rglob(pattern) if path.is_file())
    if not found:
        raise DataError(f"{folder} has no file {pattern}, which {what} reads: get the set, or name another --data")
    return found


def find_file(folder: str | None, pattern: str, what: str, names: Collection[str] | None = None) -> Path:
    """The one file that fits `pattern`.

    Args:
        names: the file has one of these.

    Raises:
        ConfigError, DataError: as `find_files`; or there are several.
    """
    found = [path for path in find_files(folder, pattern, what) if names is None or path.name in names]
    if not found:
        wanted = " or ".join(sorted(names or ()))
        raise DataError(f"{folder} has no file {wanted}, which {what} reads: get the set, or name another --data")
    first, *others = found
    if others:
        raise DataError(f"{what} reads one {pattern}, and there are {first} and {others[0]}: name a narrower --data")
    return first


@dataclass(frozen=True, slots=True)
class Parts:
    """What a file holds, part by part, and how much of it could not be used."""

    path: Path
    parsed: list[Any]
    malformed: int
    """Lines that are no JSON, or lack something."""


def read_parts(path: Path, parse: Callable[[dict[str, Any]], Iterable[Parsed]], most: int | None = None) -> Parts:
    """What `parse` makes of each row of `path`; rows it cannot use are counted, and the first of them is named.

    Args:
        path: an object a line (`.jsonl`, also packed as `.jsonl.gz`), or one object of objects (`.json`).
        parse: raises KeyError, TypeError, ValueError or SyntaxError for a row that it cannot use.
        most: rows to read at most; None reads all.

    Raises:
        DataError: the file cannot be read, or no row can be used.
    """
    parsed: list[Parsed] = []
    bad: list[str] = []
    rows = 0
    for place, text in _texts(path):
        if most is not None and rows - len(bad) >= most:
            break
        rows += 1
        try:
            parsed += parse(_object(text))
        except (KeyError, TypeError, ValueError, SyntaxError) as error:
            bad.append(f"{place}: {_reason(error)}")
    if rows == len(bad):
        raise DataError(f"{path} has no row that can be used ({bad[0] if bad else 'it is empty'}): check the file")
    if bad:
        _log.warning("%s: %d of %d rows are malformed and left out, first %s", path, len(bad), rows, bad[0])
    return Parts(path, parsed, len(bad))


def _object(text: Any) -> dict[str, Any]:
    row = json.loads(text) if isinstance(text, str) else text
    if not isinstance(row, dict):
        raise TypeError("not an object")
    return row


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "not JSON"
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _texts(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        if path.suffix == ".json":
            whole = json.loads(path.read_text(encoding="utf-8"))
            yield from ((f"entry {key}", value) for key, value in whole.items())
            return
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield from ((f"line {number}", line) for number, line in enumerate(file, start=1) if line.strip())
    except (OSError, EOFError, ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({str(error).strip()}): get the file again") from error
