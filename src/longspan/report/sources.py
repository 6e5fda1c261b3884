"""What a report rests on: folders of records and scores, checked for numbers that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longspan.errors import DataError
from longspan.lengths import format_length
from longspan.records import Record, read_records
from longspan.report.paired import Pairs
from longspan.report.results import Results
from longspan.scores import Score, read_scores

_KEY = ("run", "method", "model", "train_length", "task", "metric", "length", "depth", "seed", "stage", "domain")


@dataclass(frozen=True, slots=True)
class Sources:
    """The folders of a report and what they hold."""

    folders: Sequence[Path]
    results: Results
    pairs: Pairs


def read_sources(run_dirs: Sequence[Path]) -> Sources:
    """Read `run_dirs`: `records.jsonl`, and `scores.jsonl` where there is one.

    Raises:
        DataError: a folder has no records, or two folders hold different numbers for one measurement.
    """
    folders = [Path(folder) for folder in run_dirs]
    if not folders:
        raise DataError("no run was named: give the folders of the runs to report")
    records: list[Record] = []
    scores: list[Score] = []
    seen: dict[tuple[object, ...], tuple[Path, Record]] = {}
    for folder in folders:
        found = read_records(folder)
        if not found:
            raise DataError(f"{folder} holds no records yet: let the run measure something first")
        for record in found:
            _check(record, folder, seen)
        records.extend(found)
        scores.extend(read_scores(folder))
    results = Results(records)
    return Sources(folders, results, Pairs(results, scores))


def _check(record: Record, folder: Path, seen: dict[tuple[object, ...], tuple[Path, Record]]) -> None:
    """Note `record`; within a folder a later number takes the place of an earlier one, from two folders it may not."""
    key = tuple(getattr(record, name) for name in _KEY)
    other, before = seen.get(key, (folder, record))
    if other != folder and before.value != record.value:
        place = "" if record.length is None else f" at {format_length(record.length)}"
        raise DataError(
            f"{other} and {folder} hold different numbers for the same measurement ({record.task} {record.metric} of "
            f"{record.model} in run {record.run}{place}: {before.value} and {record.value}): report them apart"
        )
    seen[key] = (folder, record)


def builds(results: Results) -> str:
    """One line if the records were measured by several versions of the packages, else nothing."""
    spelled = [record.versions for record in results.records]
    if len(set(spelled)) < 2:
        return ""
    found: dict[str, dict[str, int]] = {}
    for versions in spelled:
        for part in versions.split(", "):
            name, _, number = part.partition(" ")
            by_number = found.setdefault(name, {})
            by_number[number] = by_number.get(number, 0) + 1
    differing = [
        f"{name} " + " and ".join(f"{number} ({count:,} records)" for number, count in numbers.items())
        for name, numbers in found.items()
        if len(numbers) > 1 or sum(numbers.values()) < len(spelled)
    ]
    return f"Numbers of several builds stand side by side: {'; '.join(differing)}."
