"""`matrix_eval`: a score for each row (a stage, a trained length) and column (a domain, a test length), resumable.

The same loop serves continual training and window extension: `measure` gets a row and a column and returns the records
of that cell, which carry both. What the numbers then say is `longspan.matrix`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from longspan.evaluate.journal import OnRecords
from longspan.records import Record

Row = TypeVar("Row")
Column = TypeVar("Column")


def matrix_eval(
    rows: Sequence[Row],
    columns: Sequence[Column],
    measure: Callable[[Row, Column], list[Record]],
    *,
    found: Callable[[Row, Column], list[Record]] = lambda row, column: [],
    on_records: OnRecords | None = None,
    wanted: Callable[[Row, Column], bool] = lambda row, column: True,
) -> list[Record]:
    """The records of all wanted cells, row by row.

    Args:
        found: records of a cell that were measured before; a cell that has any is not measured again.
        on_records: is given the records of each cell as soon as it is measured (append them to a file there).
        wanted: whether a cell is part of the matrix.
    """
    records: list[Record] = []
    for row in rows:
        for column in (column for column in columns if wanted(row, column)):
            known = found(row, column)
            if not known:
                known = measure(row, column)
                if on_records is not None:
                    on_records(known)
            records += known
    return records
