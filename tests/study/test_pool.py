"""Arms in processes of their own give the same numbers, and stop with the study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from longspan.records import Record, read_records
from longspan.study.config import StudyConfig
from longspan.study.run import compare

COST = {"seconds", "seconds per step", "bytes"}
SCRIPT = """
import sys
from pathlib import Path
from longspan.study import StudyConfig, compare
try:
    compare(StudyConfig.from_yaml(sys.argv[1]), Path(sys.argv[2]), jobs=2, progress=False)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def small(values: dict[str, Any]) -> dict[str, Any]:
    """The tiny study with a model that a process of its own knows, too."""
    values["run"] |= {"model": {"size": "1m"}, "steps": 2, "log_every": 1}
    values["lengths"] = [64, 128]
    values["evaluate"]["position"] = None
    return values


@pytest.mark.slow
def test_two_processes_give_what_one_gives(small: dict[str, Any], tmp_path: Path) -> None:
    small["run"]["threads"] = 1
    study = StudyConfig.parse(small, "study")
    one = read_records(compare(study, tmp_path / "one", jobs=1, progress=False))
    two = read_records(compare(study, tmp_path / "two", jobs=2, progress=False))
    kept = [r for r in one if r.metric not in COST]
    assert len(one) == len(two)
    for record, other in zip(kept, [r for r in two if r.metric not in COST], strict=True):
        place = (record.model, record.method, record.task, record.metric, record.length)
        assert place == (other.model, other.method, other.task, other.metric, other.length)
        assert record.value == pytest.approx(other.value, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_keep_their_state_and_end_with_the_study(
    small: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    small["run"]["steps"] = 5000
    settings, out = tmp_path / "study.yaml", tmp_path / "out"
    settings.write_text(yaml.safe_dump(small))
    paths = os.pathsep.join(path for path in sys.path if path)
    study = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(settings), str(out)], env={**os.environ, "PYTHONPATH": paths}
    )
    states = [out / "runs" / name / "state" for name in ("rope-0", "coca-0")]
    losses = [state.parent / "records.jsonl" for state in states]
    _wait_for(lambda: all(path.exists() for path in losses), study)
    study.send_signal(number)
    assert study.wait(60) == (130 if number == signal.SIGINT else -number)
    _wait_for(lambda: all(list(state.glob("step-*")) for state in states))


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_numbers(small: dict[str, Any], tmp_path: Path) -> None:
    small["run"] |= {"threads": 1, "steps": 100, "save_every": 10, "device": "cpu"}
    settings, out = tmp_path / "study.yaml", tmp_path / "out"
    settings.write_text(yaml.safe_dump(small))
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(settings), str(out)], env={**os.environ, "PYTHONPATH": paths}
    )
    _wait_for(lambda: list(out.glob("runs/*/state/step-*")), process)
    process.kill()
    process.wait()
    assert not (out / "records.jsonl").exists()
    study = StudyConfig.parse(small, "study")
    resumed = read_records(compare(study, out, jobs=2, progress=False))
    whole = read_records(compare(study, tmp_path / "whole", jobs=2, progress=False))

    def values_of(records: list[Record]) -> list[tuple[Any, ...]]:
        kept = [record for record in records if record.metric not in COST]
        return [(r.model, r.method, r.task, r.metric, r.length, r.depth, r.value) for r in kept]

    assert values_of(resumed) == values_of(whole)


def _wait_for(condition: Any, process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, "the study ended by itself"
        time.sleep(0.1)
