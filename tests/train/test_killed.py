"""A run killed at any moment, between two bytes of a checkpoint too, goes on to the same weights."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longspan.records import read_records
from longspan.train import sizes

KILLED = 20


def losses(out: Path) -> list[tuple[int | None, float | None]]:
    return [(record.n, record.value) for record in read_records(out) if record.metric == "loss"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_runs_killed_at_random_moments_go_on_to_the_same_weights_bit_for_bit(
    tmp_path: Path, data_folder: Path
) -> None:
    values = {
        "name": "tiny",
        "model": {"size": "tiny"},
        "methods": "coca",
        "train_length": 16,
        "steps": 8,
        "batch_tokens": 64,
        "micro_batch_tokens": 32,
        "save_every": 1,
        "log_every": 3,
        "device": "cpu",
        "threads": 1,
        "data": {"text": str(data_folder / "text.txt"), "vocab_size": 300, "cache": str(tmp_path / "cache")},
        "tiny": dataclasses.asdict(sizes.Size(layers=2, width=32, heads=2, intermediate=64, tied=True)),
    }
    (tmp_path / "run.json").write_text(json.dumps(values), encoding="utf-8")
    script = Path(__file__).with_name("killed_runs.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(KILLED)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert sum("signal 9" in line for line in lines) == KILLED, done
    assert any(" left .step-" in line for line in lines), lines  # some while a state was written
    expected = load_file(tmp_path / "whole" / "checkpoint" / "model.safetensors")
    for number in range(KILLED):
        out = tmp_path / f"killed-{number}"
        assert f"resumed-{number}: done" in lines, done
        found = load_file(out / "checkpoint" / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), out.name
        assert losses(out) == losses(tmp_path / "whole")
        assert not [path for path in out.rglob(".*") if path.name != ".lock"]
        assert not (out / "state").exists()
