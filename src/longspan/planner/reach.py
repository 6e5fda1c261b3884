"""How far methods reached in this project's own studies, which train small models: a table made from their records.

The reach of a line (a model trained with some methods, extended by others) is the largest factor over its training
window at which, as at every shorter length measured, passkey is at least 0.5 and perplexity at most 1.1 x its value
inside the window. Only studies that met their gate count: passkey inside the window at least 0.95 by every plain model.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longspan.records import Record
from longspan.report.results import Cell, Results
from longspan.report.summary import LEARNED, REACH

PERPLEXITY = 1.1
"""Largest perplexity that counts as reached, over that inside the window."""
TABLE = Path(__file__).with_name("reach.json")
"""What `docs/generate.py` makes of the committed records; a package does not carry the records themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """One line of a study."""

    methods: str
    """All methods in force, as spelled in the records."""
    study: str
    size: str
    """Of the models: `30m`."""
    train_length: int
    factor: float
    """Reach by both measures; 1 where the line leaves one of them at the first length beyond its window."""
    perplexity_factor: float
    """Reach by perplexity alone."""
    passkey_factor: float
    """Reach by passkey alone."""
    seeds: int
    """How many the length just beyond the window rests on."""


def own_reach(study: str, size: str, records: Sequence[Record]) -> list[Reach]:
    """The reach of every line of a study that met its gate; none if it did not."""
    gates = [record.value for record in records if record.task == "gate"]
    if not gates or any(value is None or value < LEARNED for value in gates):
        return []
    results = Results(records)
    perplexity, passkey = results.by_length("perplexity"), results.by_length("passkey")
    spelled = {results.line_of(record): record.method for record in records}
    (trained,) = results.train_lengths
    found = []
    for line in perplexity:
        far = {length: cell for length, cell in passkey.get(line, {}).items() if length > trained}
        if not far or trained not in perplexity[line]:
            continue
        limit = PERPLEXITY * perplexity[line][trained].value
        by_perplexity = _farthest({k: cell.value <= limit for k, cell in perplexity[line].items() if k > trained})
        by_passkey = _farthest({length: cell.value >= REACH for length, cell in far.items()})
        found.append(
            Reach(
                methods=spelled[line],
                study=study,
                size=size,
                train_length=trained,
                factor=min(by_perplexity or trained, by_passkey or trained) / trained,
                perplexity_factor=(by_perplexity or trained) / trained,
                passkey_factor=(by_passkey or trained) / trained,
                seeds=_seeds(far),
            )
        )
    return found


def _farthest(holds: dict[int, bool]) -> int | None:
    """The longest length up to which everything holds."""
    farthest = None
    for length in sorted(holds):
        if not holds[length]:
            break
        farthest = length
    return farthest


def _seeds(cells: dict[int, Cell]) -> int:
    return len(cells[min(cells)].seeds)


@functools.cache
def known_reach() -> tuple[Reach, ...]:
    """The committed table."""
    return tuple(Reach(**row) for row in json.loads(TABLE.read_text(encoding="utf-8")))


def reach_of(name: str) -> Reach | None:
    """The farthest line of a method by itself, with whatever settings; None if no study measured it."""
    alone = [row for row in known_reach() if row.methods.partition("(")[0] == name and "+" not in row.methods]
    return max(alone, key=lambda row: row.factor, default=None)
