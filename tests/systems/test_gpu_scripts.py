"""The scripts that run a study's arms side by side: what they would call, in which order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

RESULTS = Path(__file__).parents[2] / "results"
STUDY = {"seeds": [0, 1], "arms": {"plain": {}, "other": {}}}
BOTH = [(seed, arm) for seed in (0, 1) for arm in ("plain", "other")]
CALLS = {
    "discrec": (
        [f"discrec train study.yaml --out OUT --seed {seed} --arm {arm} --device cuda -q" for seed, arm in BOTH],
        ["discrec evaluate OUT --batch 256 --device cuda -q"],
    ),
    "xl-pe": (
        [f"xlpe train . --seed {seed} --arm {arm} --device cuda -q" for seed, arm in BOTH],
        ["xlpe evaluate . --device cuda -q"],
    ),
    "hprompt-cpt": (
        [
            f"cpt {command} study.yaml --out OUT --seed 1 --arm {a} --device cuda -q"
            for command in ("train", "evaluate")
            for a in STUDY["arms"]
        ],
        ["cpt evaluate study.yaml --out OUT --device cuda -q --seed 1"],
    ),
}  # fmt: skip
ARGUMENTS = {"discrec": "study.yaml OUT 1", "xl-pe": ". 1", "hprompt-cpt": "study.yaml OUT 1 --seed 1"}


@pytest.mark.parametrize("system", list(CALLS))
def test_every_arm_is_trained_before_the_table_is_made(system: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    (tmp_path / "longspan").write_text('#!/bin/sh\necho "$@" >> calls\n')
    (tmp_path / "longspan").chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    packages = os.pathsep.join(sys.path)  # the link leads out of the virtual environment
    command = ["bash", str(RESULTS / system / "gpu.sh"), *ARGUMENTS[system].split()]
    subprocess.run(command, cwd=tmp_path, env={"PATH": path, "PYTHONPATH": packages}, check=True)
    trained, then = CALLS[system]
    assert (tmp_path / "calls").read_text().splitlines() == [*trained, *then]
