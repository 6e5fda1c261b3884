"""Scores: what each document or prompt of an evaluation scored, the rows from which arms are compared in pairs.

They lie in `scores.jsonl` beside `records.jsonl`. Two arms are compared on what both have scored: same task, length,
depth and `sample`, which names the very text, so that another text never makes a pair.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from longspan.jsonl import append_rows, read_rows

SCORES_FILE = "scores.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One document or prompt under one model; run, method, model, seed, task, length and depth are its records'."""

    run: str
    method: str
    model: str
    task: str
    sample: str
    """Names the text that was scored: its place, and a hash of its tokens."""
    values: dict[str, float]
    """By metric, as records name them: `nll` (mean nats per token), `accuracy` (1 or 0)."""
    weight: float = 1.0
    """What the sample counts in the mean that the record holds: the tokens of a document."""
    length: int | None = None
    depth: float | None = None
    seed: int | None = None


def append_scores(path: Path, scores: Iterable[Score]) -> None:
    """Add `scores` to the end of `path`, flushed to disk."""
    append_rows(path, scores, parse_score)


def read_scores(folder: Path) -> list[Score]:
    """The scores in `folder`; none where it keeps none.

    Raises:
        DataError: the file cannot be read, or a line is no score.
    """
    path = Path(folder) / SCORES_FILE
    return read_rows(path, parse_score, "score") if path.is_file() else []


def parse_score(row: dict[str, Any]) -> Score:
    """A score from the columns of a line; those that are not known are passed over."""
    known = {item.name for item in fields(Score)}
    return Score(**{name: value for name, value in row.items() if name in known})
