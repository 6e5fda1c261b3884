"""The script for an accelerator: whatever a step does, the rest goes on, and what went wrong is recorded."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from longspan.records import read_records

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_step_ends_well_or_says_why_not(gpu: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def step(code: str, limit: float = 60) -> str | None:
        reason: str | None = gpu.run_step("step", [sys.executable, "-c", code], limit, log)
        return reason

    assert step("print('measured')") is None
    assert step("raise SystemExit('no such kernel')") == "exit code 1: no such kernel"
    assert step("import os; os.abort()").startswith("exit code -6")  # type: ignore[union-attr]
    before = time.monotonic()
    assert step("import time; time.sleep(60)", 0.2) == "stopped after 0 s"
    assert time.monotonic() - before < 30
    assert "measured" in log.read_text()


def test_a_failed_suite_is_recorded_and_the_next_one_runs(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "SUITES", {"start": 60, "speed": 60})  # one takes no --device, one is not there
    out = tmp_path / "new" / "gpu.jsonl"
    options = ["--device", "cpu", "--no-tests", "--out", str(out), "--log", str(tmp_path / "log")]
    assert gpu.main(options) == 1
    reasons = {record.run: record.note for record in read_records(out)}
    assert "--device has no effect on the suite 'start'" in str(reasons["benchmarks/start"])
    assert "unknown suite 'speed'" in str(reasons["benchmarks/speed"])
    assert not [record for record in read_records(out) if record.value is not None]


def test_the_steps_fit_into_nine_minutes(gpu: ModuleType) -> None:
    assert gpu.TESTS + sum(gpu.SUITES.values()) <= gpu.BUDGET
    assert gpu.BUDGET + 2 * gpu.MARGIN < 540
