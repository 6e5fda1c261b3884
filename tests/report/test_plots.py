from __future__ import annotations

import builtins
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from longspan.errors import ConfigError
from longspan.records import Record
from longspan.report import read_sources, write_markdown, write_plots
from longspan.report.results import Results

SVG = "{http://www.w3.org/2000/svg}"


def test_each_chart_is_a_file_whose_colours_need_no_css_variables(study: list[Record], tmp_path: Path) -> None:
    written = write_plots(Results(study), tmp_path)
    assert {path.name for path in written} == {
        "perplexity-perplexity.svg",
        "passkey-accuracy.svg",
        "position.svg",
        "training.svg",
    }
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert "var(" not in text
        assert "@media" not in text
        root = ElementTree.fromstring(text)
        names = [group.findtext(f"{SVG}text") for group in root.iter(f"{SVG}g") if "label" in group.get("class", "")]
        assert {"rope", "alibi"} <= set(names)


def test_a_png_is_twice_as_large_as_the_svg_and_not_empty(study: list[Record], tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="the extra `plots` is not installed")
    svg, png = write_plots(Results(study), tmp_path, ("svg", "png"))[:2]
    content = png.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    root = ElementTree.parse(svg).getroot()
    assert struct.unpack(">II", content[16:24]) == (2 * int(root.get("width", "")), 2 * int(root.get("height", "")))
    assert len(content) > 10_000


def test_png_without_resvg_and_unknown_formats_are_refused(
    study: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="'pdf': choose from svg, png"):
        write_plots(Results(study), tmp_path, ("pdf",))
    whole = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "resvg_py":
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="pip install"):
        write_plots(Results(study), tmp_path, ("png",))
    assert list(tmp_path.iterdir()) == []


def test_markdown_holds_every_task_the_ranking_and_the_command(study_folder: Path, tmp_path: Path) -> None:
    text = write_markdown(read_sources([study_folder]), tmp_path / "report.md").read_text(encoding="utf-8")
    for expected in ("# books", "## perplexity", "## passkey: accuracy", "## Effective length", "## Reproduce"):
        assert expected in text
    assert f"longspan compare {study_folder / 'study.yaml'}" in text
    tables = [line for line in text.splitlines() if line.startswith("| rope | plain |")]
    assert len(tables) == 3
