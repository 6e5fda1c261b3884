"""The matrix's means are those worked out by hand; cells are measured once."""

from __future__ import annotations

import pytest

from longspan.evaluate.matrix import matrix_eval
from longspan.matrix import INITIAL, Matrix, length_matrix, stage_matrices, stage_matrix
from longspan.records import Record

SCORES = [
    [0.10, 0.20, 0.30],
    [0.80, 0.25, 0.20],
    [0.70, 0.90, 0.50],
    [0.60, 0.85, 0.95],
]
"""Three domains by hand: row 0, then a row after each stage."""


def test_the_means_of_three_domains_are_those_worked_out_by_hand() -> None:
    found = stage_matrix(["a", "b", "c"], SCORES).summary()
    assert found["current"] == pytest.approx((0.80 + 0.90 + 0.95) / 3)
    assert found["final"] == pytest.approx((0.60 + 0.85 + 0.95) / 3)
    assert found["seen"] == pytest.approx((0.80 + 0.70 + 0.90 + 0.60 + 0.85 + 0.95) / 6)
    assert found["unseen"] == pytest.approx((0.25 + 0.20 + 0.50) / 3)
    assert found["forgetting"] == pytest.approx(((0.80 - 0.60) + (0.90 - 0.85) + 0) / 3)
    assert found["unseen_gain"] == pytest.approx(((0.25 - 0.20) + (0.20 - 0.30) + (0.50 - 0.30)) / 3)


def test_equal_rows_forget_nothing_and_gain_nothing() -> None:
    found = stage_matrix(["a", "b", "c"], [[0.3, 0.5, 0.7]] * 4).summary()
    assert found["unseen_gain"] == 0
    assert found["forgetting"] == 0
    assert found["final"] == found["current"] == pytest.approx(0.5)


def test_a_mean_that_lacks_a_cell_is_absent() -> None:
    last_alone = stage_matrix(["a", "b"], [[0.1, 0.2], [None, None], [0.5, 0.6]]).summary()
    assert last_alone["final"] == pytest.approx(0.55)
    assert [name for name, value in last_alone.items() if value is not None] == ["final"]
    diagonal = stage_matrix(["a", "b"], [[0.1, 0.2], [0.5, None], [None, 0.7]]).summary()
    assert [name for name, value in diagonal.items() if value is not None] == ["current"]


def record(train_length: int, length: int, value: float, seed: int = 0) -> Record:
    columns = {"run": "r", "method": "yarn", "model": "m", "task": "passkey", "metric": "accuracy"}
    return Record(value=value, train_length=train_length, length=length, seed=seed, **columns)


def test_of_trained_lengths_by_test_lengths_the_upper_triangle_is_extrapolation() -> None:
    rows = {256: (0.9, 0.3, 0.1), 512: (0.8, 0.7, 0.2)}
    records = [
        record(row, col, x) for row, found in rows.items() for col, x in zip((256, 512, 1024), found, strict=True)
    ]
    matrix = length_matrix([*records, record(512, 512, 0.9, seed=1)])
    assert (matrix.rows, matrix.columns, matrix.learned) == ((256, 512), (256, 512, 1024), (1, 2, None))
    assert matrix.scores[1:] == ((0.9, 0.3, 0.1), (0.8, pytest.approx(0.8), 0.2))
    found = matrix.summary()
    assert found["current"] == pytest.approx((0.9 + 0.8) / 2)
    assert found["unseen"] == pytest.approx((0.3 + 0.1 + 0.2) / 3)
    assert found["forgetting"] == pytest.approx(((0.9 - 0.8) + 0) / 2)
    assert found["unseen_gain"] is None


def test_a_metric_that_is_better_when_lower_changes_its_sign() -> None:
    columns = {"run": "r", "method": "yarn", "model": "m", "task": "perplexity", "metric": "nll"}
    matrix = length_matrix([Record(value=2.5, train_length=8, length=8, **columns)], task="perplexity", metric="nll")
    assert matrix.scores[1] == (-2.5,)


def test_records_of_stages_become_a_matrix_in_the_order_of_the_stages() -> None:
    shared = {"run": "x/up", "method": "none", "seed": 3}
    stages = [
        Record(model="arm", task="stage", metric="seconds", value=1.0, stage=stage, domain=domain, **shared)
        for stage, domain in ((2, "a"), (1, "b"))
    ]
    cells = [
        Record(model=model, task="matrix", metric="accuracy", value=value, stage=stage, domain=domain, **shared)
        for model, stage, domain, value in (
            (INITIAL, 0, "a", 0.1), (INITIAL, 0, "b", 0.2), ("arm", 1, "a", 0.3), ("arm", 1, "b", 0.4),
            ("arm", 2, "a", 0.5), ("arm", 2, "b", 0.6),
        )
    ]  # fmt: skip
    assert stage_matrices([*stages, *cells]) == {
        ("x/up", "arm", 3): Matrix(
            columns=("b", "a"), rows=("b", "a"), scores=((0.2, 0.1), (0.4, 0.3), (0.6, 0.5)), learned=(1, 2)
        )
    }


def test_a_cell_is_measured_once_and_only_if_it_is_wanted() -> None:
    measured: list[tuple[int, int]] = []
    kept: dict[tuple[int, int], list[Record]] = {}

    def measure(row: int, column: int) -> list[Record]:
        measured.append((row, column))
        kept[row, column] = [record(row, column, 0.5)]
        return kept[row, column]

    def fill() -> list[Record]:
        return matrix_eval(
            [1, 2], [1, 2], measure, found=lambda *cell: kept.get(cell, []), wanted=lambda row, column: column <= row
        )

    assert len(fill()) == 3
    assert [(found.train_length, found.length) for found in fill()] == measured == [(1, 1), (2, 1), (2, 2)]
