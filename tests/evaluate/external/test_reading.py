"""Files of external sets: packed or not, one bad line among good ones, and every way to be missing."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest

from longspan.errors import ConfigError, DataError
from longspan.evaluate.external.reading import find_file, find_files, read_parts


def test_malformed_rows_are_counted_and_the_first_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n{"b": 2}\n[3]\n{"a": 4}\n')
    with caplog.at_level(logging.WARNING):
        parts = read_parts(path, lambda row: [row["a"]])
    assert (parts.parsed, parts.malformed) == ([1, 4], 3)
    assert f"{path}: 3 of 5 rows are malformed and left out, first line 3: not JSON" in caplog.text


def test_rows_come_from_packed_lines_and_from_an_object(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "set.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"a": "é"}\n{"a": 2}\n')
    (tmp_path / "set.json").write_text(json.dumps({"0": {"a": 5}, "1": {"a": 6}}))
    assert read_parts(tmp_path / "set.jsonl.gz", lambda row: [row["a"]], most=1).parsed == ["é"]
    assert read_parts(tmp_path / "set.json", lambda row: [row["a"]]).parsed == [5, 6]


@pytest.mark.parametrize("content", [b"", b"no json\n", b"\x00\xff\xfe"])
def test_a_file_without_a_usable_row_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.jsonl") as caught:
        read_parts(path, lambda row: [row["a"]])
    assert "\n" not in str(caught.value)


def test_a_truncated_archive_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:30])
    with pytest.raises(DataError, match="cannot be read"):
        read_parts(path, lambda row: [row["a"]])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data is missing: lambada reads x"):
        find_files(None, "x", "lambada")
    with pytest.raises(ConfigError, match="no folder"):
        find_files(str(tmp_path / "none"), "x", "lambada")
    with pytest.raises(DataError, match="has no file x, which lambada reads"):
        find_files(str(tmp_path), "x", "lambada")


def test_two_files_of_one_name_are_not_chosen_between(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text("{}")
    with pytest.raises(DataError, match="name a narrower --data"):
        find_file(str(tmp_path), "x.jsonl", "lambada")
