from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from longspan.errors import ConfigError, DataError
from longspan.records import Record
from longspan.report.picture import write_picture
from longspan.report.scales import length_axis

SVG = "{http://www.w3.org/2000/svg}"


def labels(picture: Path) -> list[tuple[str, float]]:
    groups = ElementTree.parse(picture).getroot().iter(f"{SVG}g")
    texts = [group.find(f"{SVG}text") for group in groups if "label" in group.get("class", "")]
    return [(text.text or "", float(text.get("y", "nan"))) for text in texts if text is not None]


def test_the_picture_is_xml_with_both_tasks_and_the_lines_chosen(study: list[Record], tmp_path: Path) -> None:
    lines = [("rope", "plain"), ("coca-exact", "yarn")]
    picture = write_picture(study, tmp_path / "picture.svg", lines=lines)
    text = " ".join(ElementTree.parse(picture).getroot().itertext())
    for expected in ("Perplexity", "Passkey", "trained at 256", "8k"):
        assert expected in text
    assert sorted(name for name, _ in labels(picture)) == ["coca-exact + yarn"] * 2 + ["rope"] * 2


def test_names_at_the_ends_of_lines_do_not_overlap(study: list[Record], tmp_path: Path) -> None:
    picture = write_picture(study, tmp_path / "picture.svg")
    places = [place for _, place in labels(picture)]
    for panel in (places[:4], places[4:]):
        assert all(below - above >= 14.9 for above, below in pairwise(panel))


def test_a_line_doubling_in_length_and_value_is_straight(make_record: Callable[..., Record], tmp_path: Path) -> None:
    records = [make_record(length=256 * 2**k, value=10.0 * 2**k) for k in range(4)]
    root = ElementTree.parse(write_picture(records, tmp_path / "p.svg")).getroot()
    points = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter(f"{SVG}circle")]
    steps = [(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in pairwise(points)]
    assert len(points) == 4
    for step in steps:
        assert step == pytest.approx(steps[0], abs=0.15)


def test_unknown_lines_other_formats_and_nothing_to_draw_are_refused(study: list[Record], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rope / nope"):
        write_picture(study, tmp_path / "p.svg", lines=[("rope", "nope")])
    with pytest.raises(ConfigError, match="SVG"):
        write_picture(study, tmp_path / "p.png")
    with pytest.raises(DataError, match="neither perplexity nor passkey"):
        write_picture([record for record in study if record.task == "train"], tmp_path / "p.svg")


def test_a_length_close_to_a_rounder_one_gets_no_tick() -> None:
    ticks = [tick for tick, _ in length_axis([256, 384, 512, 1024, 2048, 4096, 8192], "").ticks]
    assert ticks == [256, 512, 1024, 2048, 4096, 8192]
    assert [tick for tick, _ in length_axis([256, 384, 512], "").ticks] == [256, 384, 512]
