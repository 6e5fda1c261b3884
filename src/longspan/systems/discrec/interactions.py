"""Who took what, in the order of time, and the split of it into training, validation and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Int64

from longspan.errors import DataError

FEWEST = 3
"""Events of a user that leave one each for history, validation and test."""

Part = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Interactions:
    """Events of all users; users and items are numbered in the order in which they stand here."""

    users: tuple[str, ...]
    items: tuple[str, ...]
    histories: tuple[Int64[np.ndarray, " n"], ...]
    """Items (by number) of each user, oldest first."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What items are called, where that is known."""
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What is known of items beside their events: categories, words of their titles."""

    @property
    def events(self) -> int:
        """Events of all users together."""
        return sum(map(len, self.histories))

    @classmethod
    def collect(
        cls,
        histories: Mapping[str, Sequence[str]],
        names: Mapping[str, str] | None = None,
        attributes: Mapping[str, Sequence[str]] | None = None,
    ) -> Interactions:
        """From the items of each user; items are numbered by number where all names are numbers, else by name."""
        found = {item for history in histories.values() for item in history}
        items = tuple(sorted(found, key=int) if all(map(str.isdecimal, found)) else sorted(found))
        return cls.number(histories, items, names, attributes)

    @classmethod
    def number(
        cls,
        histories: Mapping[str, Sequence[str]],
        items: Sequence[str],
        names: Mapping[str, str] | None = None,
        attributes: Mapping[str, Sequence[str]] | None = None,
    ) -> Interactions:
        """The same where the order of the items is given."""
        number = {item: place for place, item in enumerate(items)}
        return cls(
            tuple(histories),
            tuple(items),
            tuple(np.array([number[item] for item in history], dtype=np.int64) for history in histories.values()),
            names or {},
            attributes or {},
        )

    def filtered(self, core: int) -> Interactions:
        """Without users and items of fewer than `core` events, and so on until nobody falls below.

        Raises:
            DataError: nothing is left.
        """
        kept = {user: [self.items[i] for i in row] for user, row in zip(self.users, self.histories, strict=True)}
        while True:
            counts = Counter(item for row in kept.values() for item in row)
            rows = {user: [item for item in row if counts[item] >= core] for user, row in kept.items()}
            rows = {user: row for user, row in rows.items() if len(row) >= core}
            if not rows:
                raise DataError(f"no user and item has {core} events: give a lower --core")
            if rows == kept:
                return Interactions.collect(rows, self.names, self.attributes)
            kept = rows

    def check(self) -> Interactions:
        """The same, if it can be split.

        Raises:
            DataError: there is nobody, or a user has too few events.
        """
        if not self.users:
            raise DataError("the interactions name no user: give at least one with a few events")
        for user, history in zip(self.users, self.histories, strict=True):
            if len(history) < FEWEST:
                events = "1 event" if len(history) == 1 else f"{len(history)} events"
                raise DataError(
                    f"user '{user}' has {events}, and leaving two out takes {FEWEST}: leave such users out by --core 5"
                )
        if not self.training_samples():
            raise DataError("no user has 4 events, so there is nothing to train on: give longer histories")
        return self

    def training_samples(self) -> list[tuple[int, int]]:
        """(user, place) of each item to be learned: from a user's second to the last but two."""
        return [(user, place) for user, row in enumerate(self.histories) for place in range(1, len(row) - 2)]

    def held_out(self, part: Part) -> list[tuple[int, int]]:
        """(user, place) of the item of each user to be foretold: the last one tests, the one before validates."""
        back = {"test": 1, "validation": 2}[part]
        return [(user, len(row) - back) for user, row in enumerate(self.histories)]

    def training_histories(self) -> list[Int64[np.ndarray, " n"]]:
        """The events that training may know of."""
        return [row[:-2] for row in self.histories]

    def user(self, name: str) -> int:
        """The number of a user.

        Raises:
            DataError: there is none of this name.
        """
        return _find(name, self.users, "user")

    def item(self, name: str) -> int:
        """The number of an item.

        Raises:
            DataError: there is none of this name.
        """
        return _find(name, self.items, "item")


def _find(name: str, among: Sequence[str], kind: str) -> int:
    try:
        return among.index(name)
    except ValueError:
        raise DataError(f"unknown {kind} '{name}': the data has {len(among)}, such as '{among[0]}'") from None
