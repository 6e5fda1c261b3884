"""Files that are whole or absent: written beside their final name, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from longspan.errors import ConfigError, StorageError


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into one line for the user."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {path}: {reason}; free some space or choose another place") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; on success it takes the place of `path`, else it is removed."""
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        part = Path(name)
        try:
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.chmod(0o644)  # mkstemp makes private files; results are for everybody
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    Folders cannot be exchanged in one step everywhere: a kill between two renames leaves the old folder in
    `.NAME.old.*` beside `path` and nothing at `path`. The next call, and `recover_folder`, put it back.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(path)
        part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield part
            part.chmod(0o755)
            flush_tree(part)
            if path.exists():
                old = Path(tempfile.mkdtemp(dir=path.parent, prefix=_old_prefix(path)))
                path.replace(old / path.name)
                part.replace(path)
                _flush(path.parent)
                shutil.rmtree(old)
            else:
                part.replace(path)
                _flush(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Put back the folder that a killed `replacing_folder` had moved aside, or remove it if `path` is there."""
    path = Path(path)
    if not path.parent.is_dir():
        return
    for old in sorted(path.parent.glob(glob.escape(_old_prefix(path)) + "*")):
        if not path.exists() and (old / path.name).exists():
            (old / path.name).replace(path)
        shutil.rmtree(old)


def _old_prefix(path: Path) -> str:
    return f".{path.name}.old."


def flush_tree(folder: Path) -> None:
    """Have the operating system put `folder` and everything in it on the disk."""
    for inner in folder.rglob("*"):
        if inner.is_dir() or inner.is_file():
            _flush(inner)
    _flush(folder)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def file_hash(path: Path) -> str:
    """SHA-256 of the bytes of `path`, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_hash(value: Any) -> str:
    """A short, stable name (12 hexadecimal digits) for a value that JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


@contextlib.contextmanager
def alone_in(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep a second process from working in `folder` meanwhile.

    Args:
        wait: until the other one is done, if there is one.

    Raises:
        ConfigError: one already does, and is not waited for.
        StorageError: the folder cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout as error:
            raise ConfigError(f"another process is at work in {folder}: wait for it or choose another place") from error
    try:
        yield
    finally:
        lock.release()
