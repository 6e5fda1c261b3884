"""Half-width keys that turn while they are read give what the float64 reference gives."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import pytest
import torch

from half_width_cases import CASES, Step
from longspan.kernels import half_width
from tolerances import TOLERANCE, distance

COMPILED = ("odd length", "hole", "bfloat16, padding")
"""Cases that a compiler is asked for: it takes seconds for each."""


@pytest.fixture(autouse=True)
def _nan_filled():
    """Memory that is not written holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("block", [half_width.BLOCK, 16])
@pytest.mark.parametrize("name", CASES)
def test_blocks_equal_the_reference(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_width, "BLOCK", block)
    monkeypatch.setattr(half_width, "AT_ONCE", 4 * block)
    step = Step(**CASES[name])
    assert distance(step.found(), step.expected()) < TOLERANCE[step.dtype]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_the_compiled_loop_equals_the_reference(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(half_width, "BLOCK", 64)
    monkeypatch.setattr(half_width, "WORTH", 0)
    step = Step(**CASES[name])
    assert distance(step.found(), step.expected()) < TOLERANCE[step.dtype]
    assert not [record for record in caplog.records if record.name.startswith("longspan")]  # nothing ran instead


@pytest.mark.parametrize(("name", "short"), [("odd length", True), ("padding", True), ("hole", False)])
def test_queries_turn_back_where_keys_stand_one_after_another(name: str, short: bool) -> None:
    step = Step(**CASES[name])
    step.found()
    assert step.turned_back == short


def test_far_positions_lose_nothing() -> None:
    step = Step(positions=torch.arange(10_000_000, 10_000_301).expand(2, -1))
    assert distance(step.found(), step.expected()) < TOLERANCE[torch.float32]


def test_a_wrong_kernel_is_found_out_on_the_tensors_it_is_wanted_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = half_width.in_blocks

    def wrong(*arguments: Any) -> Any:
        output, logs = right(*arguments)
        return output * 1.1, logs

    monkeypatch.setattr(half_width, "BLOCK", 64)
    monkeypatch.setattr(half_width, "WORTH", 0)
    monkeypatch.setattr(half_width, "COMPILED", f"a kernel {uuid.uuid4()}")  # verdicts are kept
    monkeypatch.setattr(half_width, "compiled", wrong)
    step = Step(keys=600)
    with caplog.at_level(logging.WARNING):
        assert distance(step.found(), step.expected()) < TOLERANCE[torch.float32]
    assert len(caplog.messages) == 1
    assert "attention in blocks runs instead" in caplog.messages[0]
