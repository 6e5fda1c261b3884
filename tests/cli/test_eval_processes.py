"""One evaluation in two processes, for real: the same records, the same files, and one voice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.errors import ConfigError
from longspan.processes import check_launcher
from longspan.records import Record, read_records
from longspan.scores import read_scores

TASKS = "perplexity,position,context_gain,passkey,copying"


LAUNCHER = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--main_process_port", "0"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)
"""`accelerate launch`. What it calls multi-GPU runs on processors, too: they are several processes, and no more."""


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`longspan` in two processes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *LAUNCHER, "--num_processes", "2", "-m", "longspan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def place_of(record: Record) -> tuple[object, ...]:
    return record.task, record.metric, record.length, record.depth, record.n, record.distance


def numbers(record: Record) -> list[float | None]:
    return [record.value, record.low, record.high]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_leave_what_one_leaves_and_the_first_alone_speaks(
    done: Callable[..., str], model_folder: Path, book: Path, tmp_path: Path
) -> None:
    options = ["--lengths", "32,200", "--text", book, "--max-targets", "40", "--trials", "3", "--depths", "2", "-q"]
    asked = ["eval", model_folder, "--tasks", TASKS, *options]
    # the passkey's frame does not fit into the shorter length: an error of all is said once
    refused = launch(*asked, "--out", tmp_path / "refused")
    assert refused.returncode != 0
    assert refused.stderr.count("takes at least") == 1
    asked[asked.index("32,200")] = "160,200"
    printed = done(*asked, "--out", tmp_path / "one")
    two = launch(*asked, "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert two.stdout == printed
    alone, shared = read_records(tmp_path / "one"), read_records(tmp_path / "two")
    assert [place_of(record) for record in shared] == [place_of(record) for record in alone]
    for ours, theirs in zip(shared, alone, strict=True):
        for found, expected in zip(numbers(ours), numbers(theirs), strict=True):
            # a row's last bits depend on the rows that it is read with
            assert found == (expected if expected is None else pytest.approx(expected, rel=1e-5, abs=1e-5))
    first, second = read_scores(tmp_path / "one"), read_scores(tmp_path / "two")
    assert [(score.task, score.sample) for score in second] == [(score.task, score.sample) for score in first]
    assert {path.name for path in (tmp_path / "one").iterdir()} == {path.name for path in (tmp_path / "two").iterdir()}


@pytest.mark.parametrize(("name", "value"), [("ACCELERATE_MIXED_PRECISION", "bf16"), ("ACCELERATE_USE_FSDP", "true")])
def test_what_the_launcher_was_told_in_vain_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    check_launcher()
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"the launcher sets {name}"):
        check_launcher()
