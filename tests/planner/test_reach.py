"""Own reach: the rule on made-up records, and the committed table against the committed records."""

from __future__ import annotations

from pathlib import Path

import pytest

from longspan.planner.reach import known_reach, own_reach
from longspan.records import Record, read_records

RESULTS = Path(__file__).parents[2] / "results"


def line(method: str, perplexity: list[float], passkey: list[float]) -> list[Record]:
    """Numbers at 1, 2, 4 and 8 times a window of 64."""
    lengths = [64, 128, 256, 512]
    common = {"run": "study", "model": "rope", "method": method, "train_length": 64, "seed": 0}
    rows = [("perplexity", "perplexity", perplexity), ("passkey", "accuracy", passkey)]
    return [
        Record(task=task, metric=metric, value=value, length=length, **common)  # type: ignore[arg-type]
        for task, metric, values in rows
        for length, value in zip(lengths, values, strict=False)
    ]


def gate(value: float) -> Record:
    return Record(run="study", model="rope", method="rope", task="gate", metric="accuracy", value=value, length=64)


@pytest.mark.parametrize(
    ("perplexity", "passkey", "expected"),
    [
        ([10, 10, 11, 12], [1, 0.9, 0.5, 0.5], (4, 4, 8)),
        ([10, 10, 10, 10], [1, 0.9, 0.4, 0.9], (2, 8, 2)),
        ([10, 12, 10, 10], [1, 0.9, 0.9, 0.9], (1, 1, 8)),
    ],
)
def test_the_rule_holds_at_every_shorter_length_too(
    perplexity: list[float], passkey: list[float], expected: tuple[float, ...]
) -> None:
    records = [gate(1), *line("rope", [10] * 4, [1] * 4), *line("yarn", perplexity, passkey)]
    found = {row.methods: row for row in own_reach("study", "30m", records)}["yarn"]
    assert (found.factor, found.perplexity_factor, found.passkey_factor) == expected


def test_a_study_that_missed_its_gate_says_nothing() -> None:
    lines = line("rope", [10] * 4, [1] * 4)
    assert own_reach("study", "1m", [gate(1), gate(0.15), *lines]) == []
    assert own_reach("study", "1m", lines) == []


def test_lines_that_were_not_measured_beyond_the_window_are_left_out() -> None:
    records = [gate(1), *line("rope", [10] * 4, [1] * 4), *line("yarn", [10], [1])]
    assert [row.methods for row in own_reach("study", "30m", records)] == ["rope"]


def test_the_table_in_the_package_is_that_of_the_records() -> None:
    for study, size in {(row.study, row.size) for row in known_reach()}:
        committed = [row for row in known_reach() if row.study == study]
        assert own_reach(study, size, read_records(RESULTS / study)) == committed
