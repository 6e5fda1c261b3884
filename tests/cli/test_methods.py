from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from longspan.registry import all_methods

Done = Callable[..., str]


def test_the_list_has_a_line_for_each_method(done: Done, tmp_path: Path) -> None:
    lines = done("methods", "--json", tmp_path / "methods.json").splitlines()
    assert [line.split()[0] for line in lines] == list(all_methods())
    rows = json.loads((tmp_path / "methods.json").read_text())["methods"]
    yarn = next(row for row in rows if row["name"] == "yarn")
    assert yarn["slots"] == ["frequency", "scale"]
    assert "interpolate" in yarn["summary"]


def test_a_card_names_its_source(done: Done, tmp_path: Path) -> None:
    card = done("methods", "yarn", "--json", tmp_path / "yarn.json")
    assert "arXiv:2309.00071" in card
    assert json.loads((tmp_path / "yarn.json").read_text())["slots"] == ["frequency", "scale"]


def test_the_page_holds_every_card(done: Done, tmp_path: Path) -> None:
    assert done("methods", "--markdown", tmp_path / "methods.md") == ""
    page = (tmp_path / "methods.md").read_text()
    for name in all_methods():
        assert f"\n## {name}\n" in page
    assert page.count("Formula") >= len(all_methods())
