from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longspan.records import read_records
from longspan.train import sizes, snapshot
from longspan.train.config import RunConfig
from longspan.train.run import train

Make = Callable[..., RunConfig]

BAD_RUN: dict[str, Any] = {
    "name": "tiny",
    "model": {"size": "tiny"},
    "methods": "coca",
    "train_length": 16,
    "steps": 8,
    "batch_tokens": 64,
    "micro_batch_tokens": 32,
    "save_every": 2,
    "log_every": 3,
    "device": "cpu",
    "threads": 1,
}


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(out: Path) -> list[tuple[int | None, float | None]]:
    return [(record.n, record.value) for record in read_records(out) if record.metric == "loss"]


@pytest.fixture(scope="session")
def ended(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> tuple[Path, list[str]]:
    """A folder with one whole run and four that ended badly, and how each ended (see `killed_runs.py`)."""
    folder = tmp_path_factory.mktemp("ended")
    values = {
        **BAD_RUN,
        "data": {"text": str(data_folder / "text.txt"), "vocab_size": 300, "cache": str(folder / "cache")},
        "tiny": dataclasses.asdict(sizes.Size(layers=2, width=32, heads=2, intermediate=64, tied=True)),
    }
    (folder / "run.json").write_text(json.dumps(values), encoding="utf-8")
    script = Path(__file__).with_name("killed_runs.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "interrupted" not in done.stderr  # the error carries the message, and is printed once by who catches it
    return folder, done.stdout.splitlines()


def resume(run_config: Make, folder: Path, name: str, data_folder: Path) -> Path:
    data = {"text": str(data_folder / "text.txt"), "vocab_size": 300, "cache": str(folder / "cache")}
    train(run_config(**{**BAD_RUN, "data": data}), folder / name, progress=False)
    return folder / name


def state_names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "state").iterdir())


@pytest.mark.parametrize(
    ("name", "how", "states"),
    [
        ("killed", "killed: signal 9", ["step-000000002", "step-000000004"]),
        ("torn", "torn: signal 9", ["step-000000002"]),
        ("finishing", "finishing: signal 9", ["step-000000006", "step-000000008"]),
        (
            "interrupted",
            "interrupted: KeyboardInterrupt: interrupted at step 3 of 8",
            ["step-000000002", "step-000000003"],
        ),
        ("full", "full: StorageError: cannot write", ["step-000000002", "step-000000004"]),
    ],
)
def test_a_run_that_ended_badly_goes_on_to_the_same_weights_and_losses_bit_for_bit(
    ended: tuple[Path, list[str]],
    run_config: Make,
    data_folder: Path,
    name: str,
    how: str,
    states: list[str],
) -> None:
    folder, lines = ended
    out = folder / name
    assert any(line.startswith(how) for line in lines), lines
    assert not (out / "checkpoint").exists()
    assert [found for found in state_names(out) if not found.startswith(".")] == states
    resume(run_config, folder, name, data_folder)
    assert same(weights(out), weights(folder / "whole"))
    assert losses(out) == losses(folder / "whole")
    assert [n for n, _ in losses(out)] == [3 * 64, 6 * 64, 8 * 64]
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]


def test_a_state_of_another_model_is_never_loaded(tmp_path: Path) -> None:
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(AssertionError, match="another model"):
        snapshot.restore_model(torch.nn.Linear(2, 2), tmp_path)
