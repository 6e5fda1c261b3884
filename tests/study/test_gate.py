"""The gate is stated, whether it is met or not."""

from __future__ import annotations

from typing import Any

import pytest

from longspan.records import Record
from longspan.study.config import StudyConfig
from longspan.study.gate import gate_line, gate_records


def passkey(model: str, method: str, length: int, value: float, **columns: Any) -> Record:
    settings = {"task": "passkey", "metric": "accuracy", "run": "small", "train_length": 64, "seed": 0, "n": 100}
    return Record(**{**settings, "model": model, "method": method, "length": length, "value": value, **columns})


@pytest.fixture
def gated(values: dict[str, Any]) -> StudyConfig:
    values["evaluate"]["passkey"] = {"gate": 0.9}
    return StudyConfig.parse(values, "study")


def test_the_plain_arm_is_judged_inside_its_window_without_extension(gated: StudyConfig) -> None:
    records = [
        passkey("rope", "rope", 64, 0.93),
        passkey("rope", "rope", 64, 0.5, depth=0.5),
        passkey("rope", "rope", 64, 0.5, metric="nll"),
        passkey("rope", "yarn", 64, 0.93),
        passkey("rope", "rope", 128, 0.1),
        passkey("coca", "coca", 64, 0.1),
    ]
    gates = gate_records(gated, records)
    assert [(gate.task, gate.model, gate.value) for gate in gates] == [("gate", "rope", 0.93)]
    assert gate_line(gated, gates) == (
        "Gate: passkey inside the training window of 64 tokens at least 0.9; reached rope seed 0 0.93: met."
    )


def test_one_seed_below_the_gate_is_said_plainly(gated: StudyConfig) -> None:
    gates = gate_records(gated, [passkey("rope", "rope", 64, 0.93), passkey("rope", "rope", 64, 0.2, seed=1)])
    line = gate_line(gated, gates)
    assert line is not None
    assert "rope seed 1 0.20: NOT met, so nothing can be concluded from retrieval" in line


def test_without_a_plain_arm_every_arm_is_judged(values: dict[str, Any]) -> None:
    values["evaluate"]["passkey"] = {}
    values["arms"] = {"coca": {"methods": "coca"}, "alibi": {"methods": "alibi", "extensions": ["none"]}}
    study = StudyConfig.parse(values, "study")
    records = [passkey("coca", "coca", 64, 1.0), passkey("alibi", "alibi", 64, 0.4)]
    assert [gate.model for gate in gate_records(study, records)] == ["coca", "alibi"]


def test_no_gate_no_line(values: dict[str, Any]) -> None:
    study = StudyConfig.parse(values, "study")
    assert gate_records(study, []) == []
    assert gate_line(study, []) is None
