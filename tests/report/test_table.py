from __future__ import annotations

from collections.abc import Callable

import pytest

from longspan.errors import DataError
from longspan.records import Record
from longspan.report.table import markdown_table, table_note

Make = Callable[..., Record]


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_two_seeds_are_shown_as_mean_and_lowest_to_highest(make_record: Make) -> None:
    records = [make_record(seed=0, length=512, value=20.0), make_record(seed=1, length=512, value=23.0)]
    assert rows_of(markdown_table(records))[2] == ["rope", "plain", "21.50 (20.00–23.00)"]


def test_one_seed_is_shown_with_its_interval(make_record: Make) -> None:
    records = [make_record(seed=3, length=512, value=20.0, low=19.25, high=20.75)]
    assert rows_of(markdown_table(records))[2] == ["rope", "plain", "20.00 (19.25–20.75)"]
    assert rows_of(markdown_table(records, intervals=False))[2] == ["rope", "plain", "20.00"]


def test_columns_are_lengths_in_order_and_what_was_not_measured_is_a_dash(make_record: Make) -> None:
    records = [
        make_record(length=8192, value=1234.5),
        make_record(length=512, value=5.0),
        make_record(model="alibi", method="alibi", length=512, value=6.0),
        make_record(model="alibi", method="alibi", length=8192, value=None),
    ]
    rows = rows_of(markdown_table(records))
    assert rows[0] == ["arm", "extension", "512", "8k"]
    assert rows[2][2:] == ["5.00", "1,234"]
    assert rows[3][2:] == ["6.00", "–"]
    assert "-1" not in markdown_table(records)
    assert rows_of(markdown_table(records, lengths=[256, 512]))[0][2:] == ["256", "512"]


def test_rows_are_arms_and_what_was_added_to_each(study: list[Record]) -> None:
    rows = rows_of(markdown_table(study))[2:]
    assert [row[:2] for row in rows[:6]] == [
        ["rope", "plain"],
        ["rope", "pi"],
        ["rope", "dynamic_ntk(factor=4.0)"],
        ["rope", "yarn"],
        ["alibi", "plain"],
        ["coca-exact", "plain"],
    ]
    assert rows[-1][:2] == ["coca-slack", "yarn"]
    assert len(rows) == 4 + 1 + 4 + 4


def test_passkey_counts_the_row_over_all_depths_only(make_record: Make) -> None:
    passkey = {"task": "passkey", "metric": "accuracy", "length": 1024}
    records = [
        make_record(**passkey, depth=0.0, value=0.0),
        make_record(**passkey, depth=1.0, value=1.0),
        make_record(**passkey, value=0.625, low=0.5, high=0.75),
    ]
    assert rows_of(markdown_table(records, task="passkey"))[2][2:] == ["0.62 (0.50–0.75)"]


def test_a_number_measured_twice_counts_once(make_record: Make) -> None:
    records = [make_record(seed=0, length=512, value=99.0), make_record(seed=0, length=512, value=20.0)]
    assert rows_of(markdown_table(records))[2][2:] == ["20.00"]


def test_the_note_says_how_many_seeds(study: list[Record]) -> None:
    assert "mean of 2 seeds" in table_note(study)
    assert "95 % interval" in table_note([record for record in study if record.seed == 0])


@pytest.mark.parametrize("task", ["passkey", "nonsense"])
def test_a_table_of_nothing_is_refused(make_record: Make, task: str) -> None:
    with pytest.raises(DataError, match=task):
        markdown_table([make_record(length=512)], task=task)
    with pytest.raises(DataError, match="no records"):
        markdown_table([])
