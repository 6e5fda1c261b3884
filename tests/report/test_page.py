from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from longspan.errors import DataError
from longspan.records import Record, append_records
from longspan.report.page import write_report

VOID = {"meta", "br", "img", "link", "input", "hr", "path", "rect", "circle"}


class Reader(HTMLParser):
    """Checks that tags nest, and keeps attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_loads_nothing(study_folder: Path, tmp_path: Path) -> None:
    page = write_report([study_folder], tmp_path / "report.html")
    reader = read(page)
    assert [name for name, _ in reader.attributes if name in ("src", "href", "srcset", "xlink:href")] == []
    addresses = re.findall(r"https?://[^\s<&]+", page.read_text(encoding="utf-8"))
    assert set(addresses) == {"https://example.org/books"}  # the text of study.yaml, escaped
    assert "@import" not in page.read_text(encoding="utf-8")
    assert page.stat().st_size < 400_000
    assert ("name", "viewport") in reader.attributes
    assert "prefers-color-scheme: dark" in page.read_text(encoding="utf-8")


def test_the_page_shows_every_length_arm_setting_and_origin(study_folder: Path, tmp_path: Path) -> None:
    text = " ".join(read(write_report([study_folder], tmp_path / "report.html", title="A & B <study>")).text)
    for expected in ("128", "256", "512", "1k", "2k", "4k", "8k", "rope", "alibi", "coca-exact", "coca-slack"):
        assert re.search(rf"(?<![\w-]){expected}(?![\w-])", text)
    for expected in ("A & B <study>", "train_length: 256", "0123456789ab", "torch 2.13.0", "one processor"):
        assert expected in text
    for heading in ("Perplexity by length", "By depth: passkey", "Loss by position", "Training loss"):
        assert heading in text


def test_numbers_of_the_page_are_those_of_the_records(make_record: Callable[..., Record], tmp_path: Path) -> None:
    append_records(
        tmp_path / "records.jsonl",
        [
            make_record(seed=0, length=512, value=20.0),
            make_record(seed=1, length=512, value=23.0),
            make_record(seed=1, length=1024, value=None),
        ],
    )
    page = write_report([tmp_path], tmp_path).read_text(encoding="utf-8")
    assert (tmp_path / "report.html").exists()
    page = re.sub(r' data-(v|low|high)="[^"]*"', "", page)
    assert "21.50<small>(20.00–23.00)</small>" in page
    assert "<td>0</td><td>20.00</td>" in page
    assert "<td>1</td><td>23.00</td>" in page


def test_infinite_perplexity_is_told_and_not_drawn(make_record: Callable[..., Record], tmp_path: Path) -> None:
    values = {256: 20.0, 512: float("inf")}
    append_records(tmp_path / "records.jsonl", [make_record(length=k, value=v) for k, v in values.items()])
    page = write_report([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<td data-v="inf">inf' in page
    assert page.count("<circle") == 1


def test_a_run_without_records_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        write_report([tmp_path], tmp_path / "report.html")
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(DataError, match="no records yet"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(DataError, match="no run was named"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
