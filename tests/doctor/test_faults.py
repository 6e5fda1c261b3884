"""Every planted fault is found, by the checks that are there for it."""

from __future__ import annotations

import pytest
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import longspan as ls
from doctor.confusion import PAGE, names_on_the_page
from doctor.faults import FAULTS, Fault
from longspan.doctor import CHECKS, battery
from longspan.doctor.battery import questions
from longspan.surgery.families import FAMILIES
from longspan.surgery.saved import patched_classes


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "whole"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_the_doctor_finds(fault: Fault, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [question for question in questions() if whole or question.name in fault.caught_by]
    monkeypatch.setattr(battery, "questions", lambda: asked)
    with fault.planted() as (model, against):
        report = ls.doctor(model, against=against)
    failed = {check.name for check in report.failed}
    assert set(fault.caught_by) <= failed
    assert all(check.advice and check.detail is not None for check in report.failed)


def test_there_are_many_faults_and_each_check_is_needed_by_one() -> None:
    assert len(FAULTS) >= 25
    assert {name for fault in FAULTS.values() for name in fault.caught_by} == set(CHECKS)


def test_a_fault_leaves_nothing_behind() -> None:
    functions = [dict(ALL_ATTENTION_FUNCTIONS), dict(ALL_MASK_ATTENTION_FUNCTIONS)]
    _, model_class = patched_classes(FAMILIES["llama"])
    save = model_class.save_pretrained
    for name in ("looks_ahead", "ramp_inverted_in_the_method", "method_lost_when_saved"):
        with FAULTS[name].planted():
            pass
    assert model_class.save_pretrained is save
    assert functions == [dict(ALL_ATTENTION_FUNCTIONS), dict(ALL_MASK_ATTENTION_FUNCTIONS)]


def test_the_page_names_every_check_and_every_fault() -> None:
    checks, faults = names_on_the_page(PAGE.read_text(encoding="utf-8"))
    assert checks == [question.name for question in questions()]
    assert faults == list(FAULTS)


def test_the_page_says_that_every_fault_was_found() -> None:
    assert f"{len(FAULTS)} of {len(FAULTS)} faults were found" in PAGE.read_text(encoding="utf-8")
