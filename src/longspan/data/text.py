"""Text as documents: from a file, a folder, a JSONL file, or a data set of the `datasets` library."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longspan.errors import DataError

Part = Literal["all", "train", "validation"]

_SUFFIXES = """
    bash bib c cc cfg cpp css cxx go h hpp hs htm html ini java jl js kt lean lua m markdown md ml mli mm php pl py pyi
    r rb rs rst scala sh sql swift tex text thy toml ts tsx txt v xml yaml yml
"""
TEXT_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""Files of a folder that count as text; a file named by itself is read whatever its suffix."""

HELD_OUT_EVERY = 20
"""With `part="validation"` every 20th document is given, with `part="train"` all the others."""

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Document:
    """One text that belongs together: a file, or a row of a JSONL file or data set."""

    name: str
    text: str


def read_documents(source: str | os.PathLike[str], *, field: str = "text", part: Part = "all") -> Iterator[Document]:
    """Documents of `source`, in a fixed order; texts of white space alone are left out.

    Args:
        source: a text file; a folder, searched for text files recursively and in sorted order (hidden names are left
            out); a `.jsonl` file; or `datasets:NAME[:CONFIG][:SPLIT]`, where one part after NAME is a split if it
            starts with train, validation or test, else a configuration. Only the last form may use the network.
        field: the key of the text in a row of a JSONL file or a data set.
        part: `all`, or `validation` for every 20th document and `train` for the rest: split by document.

    Raises:
        DataError: the source is missing, unreadable, not UTF-8, not JSON, or has no text (in this part).
    """
    found = False
    for index, document in enumerate(_all_documents(str(source), field)):
        found = True
        held_out = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        if part == "all" or held_out == (part == "validation"):
            yield document
    if not found:
        raise DataError(f"{source} holds no text: it is empty or white space; name a file or folder with text")
    if part == "validation" and index < HELD_OUT_EVERY - 1:
        raise DataError(
            f"{source} has {index + 1} documents, too few to hold out every {HELD_OUT_EVERY}th: "
            "name a separate source for validation"
        )


def _all_documents(source: str, field: str) -> Iterator[Document]:
    if source.startswith("datasets:"):
        named = _dataset_documents(source, field)
    elif (path := Path(source).expanduser()).is_dir():
        named = _folder_documents(path)
    elif not path.exists():
        raise DataError(f"{source} does not exist: name a text file, a folder, a .jsonl file or datasets:NAME")
    elif path.suffix == ".jsonl":
        named = _jsonl_documents(path, field)
    else:
        named = iter([Document(path.name, read_text(path))])
    return (document for document in named if document.text.strip())


def read_text(path: Path) -> str:
    """A whole UTF-8 file.

    Raises:
        DataError: it cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}): convert it to UTF-8 or take it out of the source"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check its permissions") from error


def _folder_documents(folder: Path) -> Iterator[Document]:
    names = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(root).relative_to(folder)
        names += [here / name for name in files if not name.startswith(".") and Path(name).suffix in TEXT_SUFFIXES]
    if not names:
        raise DataError(
            f"{folder} has no text files (.txt, .md, .py and the like): name a folder that has, or one file by itself"
        )
    for name in sorted(names, key=lambda path: path.as_posix()):
        yield Document(name.as_posix(), read_text(folder / name))


def _jsonl_documents(path: Path, field: str) -> Iterator[Document]:
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        name = f"{path.name}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error.msg}); each line must be one object") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not a JSON object; each line must be one object with '{field}'")
        yield Document(name, _field_of(row, field, f"{path}, line {number}"))


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file that may be larger than the memory, numbered from 1.

    Raises:
        DataError: it cannot be read or is not UTF-8.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 text (byte {error.start} of the line); convert the file to UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check its permissions") from error


def _field_of(row: dict[str, object], field: str, where: str) -> str:
    text = row.get(field)
    if not isinstance(text, str):
        raise DataError(f"{where}: no text under '{field}'; the keys are {', '.join(map(str, row)) or 'none'}")
    return text


def _dataset_documents(source: str, field: str) -> Iterator[Document]:
    name, config, split = _dataset_parts(source)
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{source} needs the datasets library: pip install datasets") from error
    try:
        rows: Iterable[dict[str, object]] = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{source} cannot be loaded: {reason}; check the name, configuration and split") from error
    for number, row in enumerate(rows):
        yield Document(f"{name}:{split}:{number}", _field_of(row, field, f"{source}, row {number}"))


def _dataset_parts(source: str) -> tuple[str, str | None, str]:
    name, *rest = source.removeprefix("datasets:").split(":")
    if not name or len(rest) > 2 or not all(rest):
        raise DataError(f"'{source}' names no data set: write datasets:NAME[:CONFIG][:SPLIT]")
    config: str | None = None
    split = "train"
    if len(rest) == 2:
        config, split = rest
    elif rest and rest[0].startswith(_SPLITS):
        split = rest[0]
    elif rest:
        config = rest[0]
    return name, config, split
