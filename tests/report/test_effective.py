from __future__ import annotations

from collections.abc import Callable

import pytest

from longspan.intervals import wilson
from longspan.records import Record
from longspan.report.effective import rank, ranked_measures
from longspan.report.results import Results

Make = Callable[..., Record]


def needle(make_record: Make, right: dict[int, int], n: int = 100, **columns: object) -> list[Record]:
    found = []
    for length, k in right.items():
        low, high = wilson(k, n)
        place = {"task": "needle", "metric": "accuracy", "length": length}
        found.append(make_record(**place, value=k / n, low=low, high=high, n=n, **columns))
    return found


@pytest.mark.parametrize(
    ("right", "threshold", "expected"),
    [
        # 59 of 100 has the lower bound 0.492, 60 of 100 has 0.502
        ({256: 100, 512: 60, 1024: 59}, 0.5, 512),
        ({256: 100, 512: 59, 1024: 60}, 0.5, 256),
        ({256: 100, 512: 60, 1024: 59}, 0.45, 1024),
        ({256: 59}, 0.5, None),
    ],
)
def test_a_length_holds_while_the_lower_bound_does(
    make_record: Make, right: dict[int, int], threshold: float, expected: int | None
) -> None:
    (found,) = rank(Results(needle(make_record, right)), "needle", "accuracy", threshold)
    assert found.length == expected


def test_the_lowest_bound_of_all_seeds_counts(make_record: Make) -> None:
    records = needle(make_record, {256: 100, 512: 100}, seed=0) + needle(make_record, {256: 100, 512: 55}, seed=1)
    (found,) = rank(Results(records), "needle", "accuracy")
    assert found.length == 256


def test_lines_are_ranked_longest_first_and_without_intervals_not_at_all(make_record: Make) -> None:
    records = [
        *needle(make_record, {256: 90}, model="short"),
        *needle(make_record, {256: 80, 512: 80}, model="long"),
        make_record(model="bare", task="needle", metric="accuracy", length=256, value=1.0),
    ]
    results = Results(records)
    assert [found.line.arm for found in rank(results, "needle", "accuracy")] == ["long", "short"]
    assert ranked_measures(results) == [("needle", "accuracy")]
    assert ranked_measures(Results(records[-1:])) == []
