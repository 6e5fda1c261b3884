"""Which cells a study has, and which of them are one measurement."""

from __future__ import annotations

import pytest

from longspan.study.cells import changes_nothing, plan_cells
from longspan.study.config import StudyConfig

SCALING = ("pi", "ntk", "yarn", "dynamic_ntk", "dynamic_ntk(factor=2)", "llama3", "log_n", "log_n+pi")


@pytest.mark.parametrize("extension", SCALING)
def test_a_factor_of_1_changes_nothing_and_a_larger_one_does(extension: str) -> None:
    assert changes_nothing(extension, 256, 128)
    assert changes_nothing(extension, 256, 256)
    assert not changes_nothing(extension, 256, 512)


@pytest.mark.parametrize("extension", ["pi(factor=2)", "base_change(base=50000)", "alibi", "coca"])
def test_what_does_not_depend_on_the_target_changes_something_at_every_length(extension: str) -> None:
    assert not changes_nothing(extension, 256, 256)


def test_cells_at_the_training_length_are_measured_once(study: StudyConfig) -> None:
    cells = [cell for cell in plan_cells(study, "rope") if cell.task == "perplexity"]
    assert len(cells) == 4 * 3
    assert [cell.extension for cell in cells if cell.length == 64 and cell.is_measured] == ["none"]
    assert {cell.same_as for cell in cells if cell.length == 64} == {"none"}
    assert all(cell.is_measured for cell in cells if cell.length > 64)


def test_an_arm_with_its_own_extensions_has_only_those(study: StudyConfig) -> None:
    assert {cell.extension for cell in plan_cells(study, "coca")} == {"none", "pi"}


def test_the_loss_by_position_can_be_left_to_the_arms_as_trained(study: StudyConfig) -> None:
    values = study.to_json()
    values["evaluate"]["position"]["extensions"] = False
    few = plan_cells(StudyConfig.model_validate(values), "rope")
    assert {cell.extension for cell in few if cell.task == "position"} == {"none"}
    assert {cell.extension for cell in plan_cells(study, "rope") if cell.task == "position"} > {"none"}
    assert [c for c in few if c.task != "position"] == [c for c in plan_cells(study, "rope") if c.task != "position"]


def test_methods_of_arm_and_extension_are_spelled_together(study: StudyConfig) -> None:
    assert study.methods_in_force("rope") == "rope"
    assert study.methods_in_force("rope", "yarn") == "yarn"
    assert study.methods_in_force("coca") == "coca"
    assert study.methods_in_force("coca", "yarn") == "coca+yarn"
