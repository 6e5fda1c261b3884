"""The committed page of families is about the families and methods that there are, and says of none that it failed."""

from __future__ import annotations

from pathlib import Path

from longspan.surgery.families import FAMILIES
from surgery_methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def tables() -> tuple[list[list[str]], list[list[str]]]:
    """Cells of the table of families and of that of methods by families, heads included."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in lines
        if line.startswith("| ") and "---" not in line
    ]
    start = next(index for index, row in enumerate(rows) if row[0] == "method")
    return rows[:start], rows[start:]


def test_the_page_lists_exactly_the_families_and_methods_that_exist() -> None:
    families, matrix = tables()
    assert [row[0] for row in families[1:]] == [f"`{family}`" for family in FAMILIES]
    assert tuple(matrix[0][1:]) == tuple(FAMILIES)
    assert [row[0] for row in matrix[1:]] == [f"`{methods}`" for methods in METHODS]


def test_every_family_was_run_with_every_method_and_none_failed() -> None:
    _, matrix = tables()
    assert all(cell.isdigit() and int(cell) >= 5 for row in matrix[1:] for cell in row[1:])
