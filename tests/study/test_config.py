"""The settings of a study are read strictly, and every mistake is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from longspan.errors import ConfigError
from longspan.study.config import StudyConfig

CHANGES = {
    "an unknown key": ({"lenghts": [64]}, "did you mean 'lengths'"),
    "an unknown key of the run": ({"run.optimiser": {}}, "optimizer"),
    "an unknown key of an arm": ({"arms.rope.method": "pi"}, "did you mean 'methods'"),
    "a seed in the run": ({"run.seed": 3}, "'seed' does not belong here"),
    "unequal data": ({"arms.rope.set": {"data.text": "x"}}, "must be equal for all arms"),
    "an unknown method": ({"arms.rope.methods": "roap"}, "unknown method 'roap'"),
    "an unknown extension": ({"extensions": ["yarm"]}, "unknown method 'yarm'"),
    "two methods on one slot": ({"arms.rope.methods": "pi"}, "arm 'rope' with extension 'pi'"),
    "a length that is none": ({"lengths": ["32q"]}, "32q"),
    "a length twice": ({"lengths": [64, 64]}, "twice"),
    "an extension twice": ({"extensions": ["none", "rope"]}, "twice"),
    "no arm": ({"arms": {}}, "arms"),
    "an arm that is no folder name": ({"arms": {"a/b": {}}}, "arms"),
    "nothing to measure": ({"evaluate.perplexity": None, "evaluate.position": None}, "switched off"),
    "a gate that is not measured": ({"lengths": [128], "evaluate.passkey": {}}, "gate"),
    "trials that leave a length out": ({"evaluate.passkey": {"trials": {128: 3}}}, "says nothing about 64"),
    "a passkey below every length": ({"evaluate.passkey": {"max_length": 32}}, "below every length"),
    "extensions that no arm takes": (
        {"arms.rope.extensions": ["none"], "arms.coca.extensions": ["none"]},
        "no effect when every arm has its own",
    ),
}


def change(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set dotted keys."""
    for key, value in changes.items():
        *outer, last = key.split(".")
        inner = values
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value


@pytest.mark.parametrize("case", CHANGES)
def test_a_mistake_is_one_line_that_names_the_place(case: str, values: dict[str, Any], tmp_path: Path) -> None:
    changes, said = CHANGES[case]
    change(values, changes)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as caught:
        StudyConfig.from_yaml(path)
    message = str(caught.value)
    assert said in message
    assert "study.yaml" in message
    assert "\n" not in message


def test_a_study_written_and_read_again_is_the_same(study: StudyConfig, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(study.to_yaml())
    assert StudyConfig.from_yaml(path) == study


def test_a_variable_of_the_environment_stands_in_a_path(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    values["evaluate"]["text"] = "${LONGSPAN_TEST}/held-out"
    monkeypatch.setenv("LONGSPAN_TEST", "/data")
    assert StudyConfig.parse(values, "study.yaml").evaluate.text == "/data/held-out"


def test_a_variable_that_is_not_set_is_named(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    values["evaluate"]["text"] = "${LONGSPAN_TEST}/held-out"
    monkeypatch.delenv("LONGSPAN_TEST", raising=False)
    with pytest.raises(ConfigError, match="LONGSPAN_TEST, which is not set"):
        StudyConfig.parse(values, "study.yaml")


def test_an_arm_may_have_its_own_learning_rate(values: dict[str, Any]) -> None:
    values["arms"]["coca"]["set"] = {"optimizer.learning_rate": "1e-4"}
    study = StudyConfig.parse(values, "study.yaml")
    assert study.run_config("coca").optimizer.learning_rate == 1e-4
    assert study.run_config("rope").optimizer.learning_rate == 2e-3


def test_trials_hold_from_their_length_on(values: dict[str, Any]) -> None:
    values["evaluate"]["passkey"] = {"trials": {64: 10, "128": 2}}
    passkey = StudyConfig.parse(values, "study.yaml").evaluate.passkey
    assert passkey is not None
    assert [passkey.trials_at(length) for length in (64, 127, 128, 4096)] == [10, 10, 2, 2]


def test_what_lengthened_an_arm_makes_room_for_an_extension_of_its_kind(values: dict[str, Any]) -> None:
    values["run"] |= {"model": {"from": "base"}, "data": {"text": values["run"]["data"]["text"]}, "target_length": 128}
    values["arms"] = {"pose": {"methods": "yarn(attention_factor=1)+pose"}}
    study = StudyConfig.parse(values, "study.yaml")
    assert study.methods_in_force("pose") == "yarn(attention_factor=1.0)+pose"
    assert study.methods_in_force("pose", "yarn(factor=2)") == "pose+yarn(factor=2.0)"


def test_each_seed_goes_on_from_a_model_of_its_own(values: dict[str, Any]) -> None:
    values["seeds"] = [3, 5]
    values["run"] |= {"model": {"from": "bases/{seed}/checkpoint"}, "data": {"text": values["run"]["data"]["text"]}}
    taught = {"distill.from": "bases/{seed}/checkpoint", "start": "fit", "steps": 0}
    values["arms"]["coca"]["set"] = taught
    study = StudyConfig.parse(values, "study.yaml")
    assert study.run_config("rope", 5).model.from_ == "bases/5/checkpoint"
    run = study.run_config("coca")
    assert (run.seed, run.model.from_, run.start, run.total_steps) == (3, "bases/3/checkpoint", "fit", 0)
    assert run.distill is not None
    assert run.distill.from_ == "bases/3/checkpoint"
