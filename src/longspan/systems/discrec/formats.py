"""Interactions from files: the JSON of public sets, plain CSV, S3Rec's text, MovieLens and RecBole's atomic files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from longspan.errors import DataError
from longspan.systems.discrec.codes import read_object
from longspan.systems.discrec.interactions import Interactions
from longspan.systems.discrec.tables import KINDS, NAME, Table, lines_of

_EVENT = ("user", "item", "rating", "timestamp")
"""Columns of MovieLens' older files, which have no heading."""


def read_interactions(path: Path) -> Interactions:
    """Interactions in whatever form `path` has; a folder is known by the files in it.

    Raises:
        DataError: there is nothing there that is understood, or a line is broken.
    """
    for pattern, reader in _READERS.items():
        found = sorted(path.glob(pattern)) if path.is_dir() else [path] if path.match(pattern) else []
        if found:
            return reader(found[0])
    known = ", ".join(_READERS)
    raise DataError(f"{path} holds no interactions in a known form: give a file (or a folder with one) like {known}")


def read_json(path: Path) -> Interactions:
    """`{"user": [item, item, ...]}` in the order of time."""
    table = read_object(path)
    for user, row in table.items():
        if not isinstance(row, list) or not all(isinstance(item, int | str) for item in row):
            raise DataError(f"{path}: user '{user}' has {row!r:.60}, not a list of items; mend it")
    return Interactions.collect({user: list(map(str, row)) for user, row in table.items()})


def read_sequences(path: Path) -> Interactions:
    """S3Rec's text: a line a user, its name and its items in the order of time, parted by blanks."""
    rows: dict[str, list[str]] = {}
    for number, line in lines_of(path):
        user, *items = line.split()
        if user in rows:
            raise DataError(f"{path}, line {number}: user '{user}' stands there twice; give each one line")
        rows[user] = items
    return Interactions.collect(rows)


def read_csv(path: Path) -> Interactions:
    """A line an event under a heading; MovieLens' `movies.csv` is read where it lies beside it."""
    movies = path.with_name("movies.csv")
    return _collect(Table.read(path), Table.read(movies) if movies.exists() else None)


def read_atomic(path: Path) -> Interactions:
    """RecBole's `NAME.inter`, and `NAME.item` beside it."""
    details = path.with_suffix(".item")
    return _collect(Table.read(path, "\t"), Table.read(details, "\t") if details.exists() else None)


def read_movielens_1m(path: Path) -> Interactions:
    """MovieLens 1M and 10M: `ratings.dat`, with `movies.dat` beside it."""
    movies, details = path.with_name("movies.dat"), None
    if movies.exists():
        details = Table.read(movies, "::", ("movie_id", "title", "genres"), "latin-1")
    return _collect(Table.read(path, "::", _EVENT), details)


def read_movielens_100k(path: Path) -> Interactions:
    """MovieLens 100k: `u.data`, with `u.item` and `u.genre` beside it."""
    events, movies, genres = Table.read(path, "\t", _EVENT), path.with_name("u.item"), path.with_name("u.genre")
    if not (movies.exists() and genres.exists()):
        return _collect(events, None)
    kinds = [line.split("|")[0] for _, line in lines_of(genres)]
    flags = Table.read(movies, "|", ("movie_id", "title", "date", "video_date", "url", *kinds), "latin-1")
    named = tuple(
        (number, (*fields[:2], "|".join(kind for kind, flag in zip(kinds, fields[5:], strict=True) if flag == "1")))
        for number, fields in flags.rows
    )
    return _collect(events, Table(movies, ("movie_id", "title", "genres"), named))


def read_names(path: Path) -> dict[str, str]:
    """Names of items: CSV with a column of items and one of names.

    Raises:
        DataError: one of the columns is missing.
    """
    return Table.read(path).names()


def read_attributes(path: Path) -> dict[str, list[str]]:
    """Attributes of items, `{"item": [attribute, ...]}`.

    Raises:
        DataError: the file is no such JSON.
    """
    table = read_object(path)
    for item, row in table.items():
        if not isinstance(row, list):
            raise DataError(f"{path}: item '{item}' has {row!r:.60}, not a list of attributes; mend it")
    return {item: list(map(str, row)) for item, row in table.items()}


_READERS: Mapping[str, Callable[[Path], Interactions]] = {
    "*.inter.json": read_json,
    "interactions.json": read_json,
    "*.inter": read_atomic,
    "u.data": read_movielens_100k,
    "ratings.dat": read_movielens_1m,
    "ratings.csv": read_csv,
    "*.csv": read_csv,
    "*.json": read_json,
    "*.txt": read_sequences,
}
"""Who reads a file of this name; the first one that fits."""


def _collect(events: Table, details: Table | None) -> Interactions:
    """Events, and what is known of their items; the words of names are attributes, too."""
    names = details.names() if details is not None and details.has(NAME) else {}
    kinds = details.kinds() if details is not None and details.has(KINDS) else {}
    words = {item: re.findall(r"[^\W_]+", name.lower()) for item, name in names.items()}
    attributes: dict[str, Sequence[str]] = {
        item: [*kinds.get(item, ()), *words.get(item, ())] for item in {**kinds, **words}
    }
    return Interactions.collect(events.histories(), names, attributes)
