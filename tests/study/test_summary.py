"""The terminal's table has a row for each arm and extension and says what the gate says."""

from __future__ import annotations

from typing import Any

from longspan.records import Record
from longspan.study.config import StudyConfig
from longspan.study.summary import summary_table


def test_perplexity_and_passkey_stand_side_by_side_and_the_gate_below(values: dict[str, Any]) -> None:
    values["evaluate"]["passkey"] = {}
    study = StudyConfig.parse(values, "study")
    shared = {"run": "small", "model": "rope", "train_length": 64, "seed": 0, "n": 10}
    records = [
        Record(**shared, method="rope", task="perplexity", metric="perplexity", value=12.345, length=64),
        Record(**shared, method="yarn", task="perplexity", metric="perplexity", value=67.89, length=128),
        Record(**shared, method="rope", task="passkey", metric="accuracy", value=0.25, length=64),
    ]
    lines = summary_table(study, records).splitlines()
    rows = [[part.split() for part in line.split("|")] for line in lines]
    assert rows[1] == [[], ["64", "128"], ["64", "128"]]
    assert rows[3] == [["rope"], ["12.35", "\N{EN DASH}"], ["0.25", "\N{EN DASH}"]]
    assert rows[4] == [["rope", "+", "yarn"], ["\N{EN DASH}", "67.89"], ["\N{EN DASH}", "\N{EN DASH}"]]
    assert "NOT met" in lines[-1]
