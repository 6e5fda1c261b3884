"""The matrix of continual training: what a model scores on each column after each row, and what that says.

Row i is the model after stage i, row 0 the model before the first. Columns are domains, or test lengths where rows are
trained lengths: each column is learned at the first row whose training covers it, and unseen by the rows before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from longspan.records import Record

TASK = "matrix"
"""The task of records that are cells of a matrix, or what follows from one."""
INITIAL = "initial"
"""What records call the model before the first stage."""
METRICS = ("current", "final", "seen", "unseen", "forgetting", "unseen_gain")
"""What `Matrix.summary` gives, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Scores, higher is better; None: not measured."""

    columns: tuple[str | int, ...]
    rows: tuple[str | int, ...]
    """Names of the rows after row 0."""
    scores: tuple[tuple[float | None, ...], ...]
    """`len(rows) + 1` rows of `len(columns)` scores, row 0 first."""
    learned: tuple[int | None, ...]
    """Number of the row (from 1) at which each column is learned; None: at none."""

    def summary(self) -> dict[str, float | None]:
        """The six means of the protocol; one is None if a cell that it rests on was not measured, or there is none.

        current      A[i][j] at the row i that learns j          final   last row
        seen         j learned at row i or before                unseen  j learned after row i, row 0 left out
        forgetting   current minus final, column by column       unseen_gain  unseen minus row 0
        """
        last = len(self.rows)
        own = [(row, column) for column, row in enumerate(self.learned) if row is not None]
        seen, unseen = self._parts()
        current, final = self._values(own), self._values([(last, column) for column in range(len(self.columns))])
        kept = self._values([(last, column) for _, column in own])
        before = self._values([(0, column) for _, column in unseen])
        ahead = self._values(unseen)
        return {
            "current": _mean(current),
            "final": _mean(final),
            "seen": _mean(self._values(seen)),
            "unseen": _mean(ahead),
            "forgetting": _mean_difference(current, kept),
            "unseen_gain": _mean_difference(ahead, before),
        }

    def _parts(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Cells (row, column) of seen and of unseen columns, row 0 left out."""
        cells = [(row, column) for row in range(1, len(self.rows) + 1) for column in range(len(self.columns))]
        seen = [(row, column) for row, column in cells if (at := self.learned[column]) is not None and at <= row]
        return seen, [cell for cell in cells if cell not in set(seen)]

    def _values(self, cells: Iterable[tuple[int, int]]) -> list[float] | None:
        found = [self.scores[row][column] for row, column in cells]
        values = [value for value in found if value is not None]
        return values if len(values) == len(found) else None


def stage_matrix(columns: Sequence[str], scores: Sequence[Sequence[float | None]]) -> Matrix:
    """The matrix of stages and domains, where stage i learns column i (both counted from 1).

    Args:
        scores: `len(columns) + 1` rows, the model before the first stage in front.
    """
    assert len(scores) == len(columns) + 1, "a row for the model before the first stage, and one for each stage"
    return Matrix(
        columns=tuple(columns),
        rows=tuple(columns),
        scores=tuple(tuple(row) for row in scores),
        learned=tuple(range(1, len(columns) + 1)),
    )


def length_matrix(records: Iterable[Record], *, task: str = "passkey", metric: str = "accuracy") -> Matrix:
    """Trained lengths as rows and test lengths as columns, from records of one arm at several trained lengths.

    Row 0 is empty: a model that is not trained at all has no trained length. A metric that is better when lower
    (`nll`) goes in with its sign turned. Numbers of several seeds are averaged.
    """
    sign = 1.0 if metric == "accuracy" else -1.0
    found: dict[tuple[int, int], list[float]] = {}
    for record in records:
        if (record.task, record.metric) != (task, metric) or record.depth is not None or record.value is None:
            continue
        if record.train_length is not None and record.length is not None:
            found.setdefault((record.train_length, record.length), []).append(sign * record.value)
    rows, columns = (sorted({cell[place] for cell in found}) for place in (0, 1))
    scores = [tuple(_mean(found.get((row, column))) for column in columns) for row in rows]
    learned = [next((i for i, row in enumerate(rows, start=1) if column <= row), None) for column in columns]
    empty: tuple[float | None, ...] = (None,) * len(columns)
    return Matrix(columns=tuple(columns), rows=tuple(rows), scores=(empty, *scores), learned=tuple(learned))


def stage_matrices(records: Iterable[Record]) -> dict[tuple[str, str, int | None], Matrix]:
    """The matrix of each run, arm (`model`) and seed among `records` whose stages are recorded.

    Stages and their order are those of the training records; row 0 is shared by all arms: `model` is `initial`.
    """
    records = list(records)
    orders: dict[str, dict[int, str]] = {}
    for record in records:
        if record.task == "stage" and record.stage is not None and record.domain is not None:
            orders.setdefault(record.run, {})[record.stage] = record.domain
    cells = {
        (record.run, record.model, record.seed, record.stage, record.domain): record.value
        for record in records
        if record.task == TASK and record.domain is not None and record.metric == "accuracy"
    }
    found = {}
    for run, model, seed in dict.fromkeys(key[:3] for key in cells if key[1] != INITIAL):
        columns = [domain for _, domain in sorted(orders.get(run, {}).items())]
        first = [cells.get((run, INITIAL, seed, 0, domain)) for domain in columns]
        rest = [[cells.get((run, model, seed, i, domain)) for domain in columns] for i in range(1, len(columns) + 1)]
        if columns:
            found[run, model, seed] = stage_matrix(columns, [first, *rest])
    return found


def _mean(values: Sequence[float] | None) -> float | None:
    return fmean(values) if values else None


def _mean_difference(values: Sequence[float] | None, others: Sequence[float] | None) -> float | None:
    if values is None or others is None:
        return None
    return _mean([value - other for value, other in zip(values, others, strict=True)])
