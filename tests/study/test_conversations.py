"""Studies of instruction tuning: how conversations are put into rows may differ between arms, what is read may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longspan.errors import ConfigError
from longspan.records import read_records
from longspan.study.arm import ArmRun
from longspan.study.config import StudyConfig
from longspan.study.inputs import tokens_per_epoch
from longspan.study.run import compare


@pytest.fixture
def tuning(values: dict[str, Any], tmp_path: Path, model_folder: Path) -> dict[str, Any]:
    """Eight dialogues of two exchanges, plain, packed and with skips between turns, each learned twice."""
    turns = [{"role": "user", "content": "Go?"}, {"role": "assistant", "content": "sea"}]
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": turns * (1 + number % 2)}) + "\n" for number in range(8)))
    values["run"] = {
        "model": {"from": str(model_folder)},
        "train_length": 64,
        "target_length": 128,
        "data": {"conversations": str(path)},
        "epochs": 2,
        "batch_tokens": 256,
        "log_every": 1,
    }
    values["arms"] = {
        "plain": {"methods": "yarn"},
        "packed": {"methods": "yarn", "set": {"data.packing": "packed", "batch_tokens": 64}},
        "skip": {"methods": "yarn+skip_align(strategy='all')"},
    }
    values |= {"extensions": ["none"], "lengths": [64]}
    values["evaluate"]["position"] = None
    return values


def test_arms_learn_the_same_conversations_equally_often(tuning: dict[str, Any], tmp_path: Path) -> None:
    study = StudyConfig.parse(tuning, "study")
    out = compare(study, tmp_path / "out", progress=False)
    records = read_records(out)
    seen = {record.model: record.n for record in records if record.metric == "seconds"}
    assert set(seen) == {"plain", "packed", "skip"}
    assert set(seen.values()) == {2 * tokens_per_epoch(out)}
    assert {record.model for record in records if record.task == "perplexity"} == set(seen)
    work = [ArmRun(study, out, arm, 0).training_work for arm in study.arms]
    assert work == [3.0 * 2 * tokens_per_epoch(out) * (1 + 64 / 2048)] * 3


def test_an_arm_may_not_read_other_conversations(tuning: dict[str, Any]) -> None:
    tuning["arms"]["packed"]["set"]["data.conversations"] = "other.jsonl"
    with pytest.raises(ConfigError, match=r"'data.conversations' must be equal for all arms"):
        StudyConfig.parse(tuning, "study")
