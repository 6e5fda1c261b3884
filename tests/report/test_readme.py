from __future__ import annotations

from pathlib import Path

import pytest

from longspan.errors import DataError
from longspan.report.readme import update_readme

PAGE = "# Title\n<!-- table:one -->\nold\n<!-- /table:one -->\ntext\n<!-- table:two -->\n<!-- /table:two -->\nend\n"


def test_only_what_stands_between_the_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    assert update_readme(page, {"one": r"| \1 |", "two": "| b |\n"})
    assert page.read_text() == (
        "# Title\n<!-- table:one -->\n| \\1 |\n<!-- /table:one -->\ntext\n"
        "<!-- table:two -->\n| b |\n<!-- /table:two -->\nend\n"
    )
    assert not update_readme(page, {"one": r"| \1 |", "two": "| b |\n"})


def test_a_check_says_what_would_change_and_writes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    assert update_readme(page, {"one": "new"}, check=True)
    assert page.read_text() == PAGE


def test_a_page_without_the_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    with pytest.raises(DataError, match="does not exist"):
        update_readme(page, {"one": ""})
    page.write_text(PAGE)
    with pytest.raises(DataError, match="no place for the table 'three'"):
        update_readme(page, {"three": ""})
