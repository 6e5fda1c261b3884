"""Files of one JSON object a line, which grow line by line and outlive a crash in the middle of one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, TypeVar

from longspan.errors import DataError
from longspan.files import storage_errors, write_text

Row = TypeVar("Row")
Parse = Callable[[dict[str, Any]], Row]
"""Makes a row of what a line holds; raises TypeError, ValueError or AttributeError for what is none."""

_NOT_A_ROW = (ValueError, TypeError, AttributeError)
"""What reading a line raises that is no UTF-8, no JSON, no object, or lacks columns."""


def append_rows(path: Path, rows: Iterable[Any], parse: Parse[Row]) -> None:
    """Add `rows` (dataclass instances) to the end of `path`, flushed to disk; a torn last line is mended first."""
    path = Path(path)
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            _mend_torn_line(file, parse)
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write dataclass instances to `path`, one a line, whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def _mend_torn_line(file: IO[bytes], parse: Parse[Row]) -> None:
    """Make `file` end with a whole line: a last row that lacks only the newline gets it, a torn one is cut off."""
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return
    try:
        parse(json.loads(content[whole:].decode("utf-8")))
    except _NOT_A_ROW:
        file.truncate(whole)
    else:
        file.write(b"\n")


def read_rows(path: Path, parse: Parse[Row], kind: str) -> list[Row]:
    """All whole rows of `path`, each of which is `kind` (`record`) in messages.

    Raises:
        DataError: the file cannot be read, or a line is no row; only a last line that a crash has torn, so that it
            lacks its newline, is passed over: it will be measured again.
    """
    try:
        *lines, last = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check its permissions") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(parse(json.loads(line.decode("utf-8"))))
        except _NOT_A_ROW as error:
            raise DataError(f"{path}, line {number}: not a {kind} ({error})") from error
    if last:
        with contextlib.suppress(json.JSONDecodeError):
            try:
                rows.append(parse(json.loads(last.decode("utf-8"))))
            except (UnicodeDecodeError, TypeError, AttributeError) as error:
                raise DataError(f"{path}, line {len(lines) + 1}: not a {kind} ({error})") from error
    return rows
