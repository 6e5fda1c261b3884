from __future__ import annotations

from collections.abc import Callable

import pytest

from longspan.records import Record
from longspan.report.distance import distance_edges, distance_table
from longspan.report.results import Results

Make = Callable[..., Record]


def passkeys(make_record: Make, length: int, right: dict[float, int], **changes: object) -> list[Record]:
    """Ten trials at each depth, of which so many are right."""
    place = {"task": "passkey", "metric": "accuracy", "length": length, "n": 10, **changes}
    return [make_record(**place, depth=depth, value=count / 10) for depth, count in right.items()]


def test_trials_are_sorted_by_how_far_the_key_is_from_the_end(make_record: Make) -> None:
    records = passkeys(make_record, 1024, {0.0: 0, 0.25: 5, 0.5: 10, 1.0: 10})  # 4, 3, 2 and 0 windows of 256
    table = distance_table(Results(records))
    assert table is not None
    assert table.columns == ("to 1 L", "1–2 L", "2–4 L")
    # Wilson at 95 %: 10 of 10 is 0.7225 to 1, 5 of 20 is 0.1119 to 0.4687
    assert list(table.rows.values()) == [["1.00 (0.72–1.00)", "1.00 (0.72–1.00)", "0.25 (0.11–0.47)"]]


def test_seeds_and_lengths_count_together_and_what_was_measured_twice_counts_once(make_record: Make) -> None:
    records = [
        *passkeys(make_record, 512, {0.0: 3}, seed=0),  # measured again below
        *passkeys(make_record, 512, {0.0: 10}, seed=0),
        *passkeys(make_record, 512, {0.0: 5}, seed=1),
        *passkeys(make_record, 1024, {0.5: 0}, seed=0),
    ]
    table = distance_table(Results(records))
    assert table is not None
    assert list(table.rows.values()) == [["–", "0.50 (0.33–0.67)"]]  # 15 of 30


def test_the_unit_is_the_shortest_window_that_was_trained(make_record: Make) -> None:
    records = passkeys(make_record, 1024, {0.0: 5}) + passkeys(
        make_record, 1024, {0.0: 10}, model="full", train_length=1024
    )
    table = distance_table(Results(records))
    assert table is not None
    assert [texts[-1][:4] for texts in table.rows.values()] == ["0.50", "1.00"]


@pytest.mark.parametrize(
    ("farthest", "edges"),
    [(1.5, [0, 1, 2]), (4, [0, 1, 2, 4]), (16, [0, 1, 2, 4, 8, 12, 16]), (17, [0, 1, 2, 4, 8, 16, 24, 32])],
)
def test_columns_double_and_the_last_is_halved(farthest: float, edges: list[float]) -> None:
    assert distance_edges(farthest) == edges


def test_there_is_no_table_where_no_key_is_beyond_the_window(make_record: Make) -> None:
    assert distance_table(Results(passkeys(make_record, 256, {0.0: 10, 1.0: 10}))) is None
    assert distance_table(Results([make_record(length=512)])) is None
