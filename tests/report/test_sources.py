from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.errors import DataError
from longspan.records import Record, append_records
from longspan.report import read_sources
from longspan.report.sources import builds

Make = Callable[..., Record]


def folder(path: Path, *records: Record) -> Path:
    append_records(path / "records.jsonl", records)
    return path


def test_two_numbers_for_one_measurement_are_refused_and_named(make_record: Make, tmp_path: Path) -> None:
    first = folder(tmp_path / "a", make_record(length=512, value=20.0))
    second = folder(tmp_path / "b", make_record(length=512, value=23.0))
    with pytest.raises(
        DataError, match=r"a and .*b hold different numbers .*at 512: 20.0 and 23.0\): report them apart"
    ):
        read_sources([first, second])


def test_the_same_number_from_two_folders_and_a_later_one_in_one_folder_are_taken(
    make_record: Make, tmp_path: Path
) -> None:
    first = folder(tmp_path / "a", make_record(length=512, value=19.0), make_record(length=512, value=20.0))
    second = folder(tmp_path / "b", make_record(length=512, value=20.0), make_record(length=256, value=18.0))
    results = read_sources([first, second]).results
    ((row),) = results.by_length("perplexity").values()
    assert {length: cell.value for length, cell in row.items()} == {256: 18.0, 512: 20.0}


def test_numbers_of_two_builds_are_told_in_one_line(make_record: Make, tmp_path: Path) -> None:
    kinds = ("python 3.11.7, torch 2.12.0", "python 3.11.7, torch 2.13.0", "python 3.11.7, torch 2.13.0")
    records = [make_record(length=256 * 2**place, versions=kind) for place, kind in enumerate(kinds)]
    told = builds(read_sources([folder(tmp_path, *records)]).results)
    assert told == "Numbers of several builds stand side by side: torch 2.12.0 (1 records) and 2.13.0 (2 records)."
    assert builds(read_sources([folder(tmp_path / "one", records[0])]).results) == ""
