"""Tables in text files: CSV with a heading, MovieLens' files without one, RecBole's atomic files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from longspan.errors import DataError

USER = ("user", "user_id", "userid", "reviewerid")
ITEM = ("item", "item_id", "itemid", "movieid", "movie_id", "asin", "parent_asin", "product_id")
TIME = ("timestamp", "time", "unixreviewtime")
NAME = ("title", "name", "movie_title", "product_title")
KINDS = ("genres", "genre", "class", "categories", "category")
"""Headings of columns, in lower case, that are understood."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by heading, each with the number of its line."""

    path: Path
    heading: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    @classmethod
    def read(
        cls, path: Path, separator: str = ",", heading: Sequence[str] | None = None, encoding: str = "utf-8-sig"
    ) -> Table:
        """The table in `path`; its heading is the first line unless given. RecBole's `:type` is cut off.

        Raises:
            DataError: the file cannot be read, has no row, or a row has another number of fields than the heading.
        """
        lines = _split(path, separator, encoding)
        if heading is None:
            heading = [name.partition(":")[0].strip().lower() for name in (lines.pop(0)[1] if lines else ())]
        for number, fields in lines:
            if len(fields) != len(heading):
                raise DataError(
                    f"{path}, line {number}: {len(fields)} fields where {len(heading)} belong ({', '.join(heading)})"
                )
        if not lines:
            raise DataError(f"{path} has no rows: give a file with at least one")
        return cls(path, tuple(heading), tuple((number, tuple(fields)) for number, fields in lines))

    def column(self, among: Sequence[str]) -> list[str]:
        """The values under the first heading that is one of `among`.

        Raises:
            DataError: there is none.
        """
        place = next((place for place, name in enumerate(self.heading) if name in among), None)
        if place is None:
            raise DataError(
                f"{self.path} has no column {' or '.join(among)} but {', '.join(self.heading)}: name one so"
            )
        return [fields[place] for _, fields in self.rows]

    def has(self, among: Sequence[str]) -> bool:
        """Whether there is such a column."""
        return any(name in among for name in self.heading)

    def histories(self) -> dict[str, list[str]]:
        """Items of each user in the order of time, or of the lines where there is no column of times.

        Raises:
            DataError: a column is missing, or a time is no number.
        """
        users, items = self.column(USER), self.column(ITEM)
        times = list(self._times()) if self.has(TIME) else range(len(users))
        histories: dict[str, list[str]] = {}
        for place in sorted(range(len(users)), key=lambda place: times[place]):  # stable: ties stay as they stood
            histories.setdefault(users[place], []).append(items[place])
        return histories

    def _times(self) -> Iterator[float]:
        for (number, _), text in zip(self.rows, self.column(TIME), strict=True):
            try:
                yield float(text)
            except ValueError:
                raise DataError(f"{self.path}, line {number}: '{text}' is no time in seconds; mend it") from None

    def names(self) -> dict[str, str]:
        """What items are called."""
        return dict(zip(self.column(ITEM), self.column(NAME), strict=True))

    def kinds(self) -> dict[str, list[str]]:
        """Genres or categories of items."""
        return {
            item: [kind for kind in re.split(r"[|,\s]+", text) if kind]
            for item, text in zip(self.column(ITEM), self.column(KINDS), strict=True)
        }


def lines_of(path: Path, encoding: str = "utf-8-sig") -> list[tuple[int, str]]:
    """The lines of a file that are not empty, with their numbers.

    Raises:
        DataError: the file cannot be read, or has none.
    """
    try:
        text = path.read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty: give a file with interactions")
    return lines


def _split(path: Path, separator: str, encoding: str) -> list[tuple[int, list[str]]]:
    lines = lines_of(path, encoding)
    if separator != ",":  # these forms know no quotes
        return [(number, line.split(separator)) for number, line in lines]
    return [(number, next(csv.reader([line]))) for number, line in lines]
