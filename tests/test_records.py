"""Records survive crashes, and say which source they were made by."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from longspan import records
from longspan.errors import DataError
from longspan.records import Record, append_records, commit, read_records


def record(length: int) -> Record:
    return Record(run="r", method="rope", model="m", task="perplexity", metric="nll", value=1.5, length=length)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    append_records(tmp_path / "records.jsonl", [record(1), record(2)])
    return tmp_path / "records.jsonl"


@pytest.mark.parametrize("kept", [1, 30, -20])
def test_a_line_that_a_crash_has_torn_is_passed_over_and_then_replaced(written: Path, kept: int) -> None:
    first, second = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(first + second[:kept])
    assert [found.length for found in read_records(written)] == [1]
    append_records(written, [record(3)])
    assert [found.length for found in read_records(written)] == [1, 3]


def test_a_line_that_lacks_only_its_newline_is_kept(written: Path) -> None:
    written.write_bytes(written.read_bytes().removesuffix(b"\n"))
    assert [found.length for found in read_records(written)] == [1, 2]
    append_records(written, [record(3)])
    assert [found.length for found in read_records(written)] == [1, 2, 3]


@pytest.mark.parametrize("line", [b'{"run": "r"', b'{"run": "r"}', b"[1]", b"", b"\xff\xfe", b'"text"'])
def test_a_whole_line_that_is_no_record_is_named_even_if_it_is_the_last(written: Path, line: bytes) -> None:
    written.write_bytes(written.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=r"records\.jsonl, line 3: not a record"):
        read_records(written)


def test_records_of_a_later_schema_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append_records(path, [dataclasses.replace(record(1), schema=2)])
    with pytest.raises(DataError, match="schema 2, this longspan reads up to schema 1"):
        read_records(path)


def test_a_record_without_the_column_is_of_the_first_schema(tmp_path: Path) -> None:
    row = dataclasses.asdict(record(1))
    del row["schema"]
    (tmp_path / "records.jsonl").write_text(json.dumps(row) + "\n")
    assert read_records(tmp_path)[0].schema == 1


def test_a_binary_file_is_no_records(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(128, 256)) * 3)
    with pytest.raises(DataError, match="line 1: not a record") as caught:
        read_records(path)
    assert "\n" not in str(caught.value)


def test_the_commit_is_that_of_a_repository_which_tracks_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    source = tmp_path / "venv" / "longspan" / "records.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    monkeypatch.setattr(records, "__file__", str(source))
    find = commit.__wrapped__
    git("init")
    git("commit", "--allow-empty", "-m", "the user's own work")
    assert find() is None
    git("add", ".")
    git("commit", "-m", "with longspan in it")
    assert find() == git("rev-parse", "--short=12", "HEAD")
    source.write_text("changed")
    assert find() == git("rev-parse", "--short=12", "HEAD") + "-dirty"
