"""Saved states of a run in progress: safetensors and JSON in a folder that is whole or not taken."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from longspan.errors import StorageError
from longspan.files import file_hash, replacing_folder

KEPT = 2
"""States kept: the newest, and the one before it in case the newest turns out to be damaged."""

MANIFEST = "manifest.json"


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing_folder`, for what safetensors and tokenizers write.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    try:
        with replacing_folder(path) as part:
            yield part
            for inner in part.rglob("*"):
                if inner.is_file():
                    inner.chmod(0o644)  # safetensors makes private files; results are for everybody
    except Exception as error:
        # safetensors and tokenizers report failed writes in ways of their own, the latter as a bare Exception
        if isinstance(error, SafetensorError) or (type(error) is Exception and "os error" in str(error)):
            raise StorageError(f"cannot write {path}: {error}; free some space or choose another place") from error
        raise


def save_state(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
    """Write the state after `step` below `folder` and remove all but the last two.

    Args:
        tensors: groups of tensors; each becomes NAME.safetensors.
        values: what JSON can write; each becomes NAME.json.

    Raises:
        StorageError: the disk is full; the states before are untouched.
    """
    path = state_folder(folder, step)
    with writing_folder(path) as part:
        for name, group in tensors.items():
            save_file(dict(group), part / f"{name}.safetensors")
        for name, value in values.items():
            (part / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
        hashes = {file.name: file_hash(file) for file in sorted(part.iterdir())}
        (part / MANIFEST).write_text(json.dumps(hashes, indent=2), encoding="utf-8")
    for old in saved_states(folder)[:-KEPT]:
        shutil.rmtree(old)


def saved_states(folder: Path) -> list[Path]:
    """All states below `folder`, damaged ones too, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def newest_state(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole state below `folder`, or None, and a line on each damaged one that was passed over."""
    warnings: list[str] = []
    for path in reversed(saved_states(folder)):
        problem = _damage(path)
        if problem is None:
            return path, warnings
        warnings.append(f"{path} is damaged ({problem}) and not used; going on from the state before it")
    return None, warnings


def read_value(state: Path, name: str) -> Any:
    """What `save_state` was given as value `name`."""
    return json.loads((state / f"{name}.json").read_text(encoding="utf-8"))


def state_folder(folder: Path, step: int) -> Path:
    """Where the state after `step` is kept below `folder`."""
    return folder / f"step-{step:09d}"


def state_step(state: Path) -> int:
    """The step after which a state was saved."""
    return int(state.name.removeprefix("step-"))


def remove_leftovers(folder: Path, *files: str) -> None:
    """Remove what a killed process had begun to write directly in `folder`: states, checkpoints, and these files."""
    for name in files:
        for path in folder.glob(f".{name}.*"):
            path.unlink()
    for path in folder.glob(".*"):
        if path.is_dir() and path.name.startswith((".step-", ".checkpoint.")):
            shutil.rmtree(path, ignore_errors=True)


def drop_damaged(folder: Path, newest: Path | None) -> None:
    """Remove the states that come after `newest`, so that they are written anew."""
    for path in saved_states(folder):
        if newest is None or path.name > newest.name:
            shutil.rmtree(path)


def _damage(state: Path) -> str | None:
    """What is wrong with a state, or None if every file is as it was written."""
    try:
        hashes = json.loads((state / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in hashes.items():
            if file_hash(state / name) != expected:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, AttributeError) as error:
        return f"{error}"
    return None
