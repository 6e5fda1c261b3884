"""One run in two processes, for real: the same curve, the same files, and no process that is lost takes it along."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from longspan.records import read_records
from longspan.train import sizes
from longspan.train.config import RunConfig
from longspan.train.run import train
from longspan.train.trainer import RunTrainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TINY = sizes.Size(layers=2, width=32, heads=2, intermediate=64, tied=True)
PLAIN: dict[str, Any] = {
    "name": "tiny",
    "model": {"size": "tiny"},
    "methods": "coca",
    "train_length": 16,
    "steps": 8,
    "batch_tokens": 64,
    "save_every": 3,
    "log_every": 2,
    "device": "cpu",
    "threads": 1,
    "optimizer": {"learning_rate": 0.01},
}
ENDS = ("out", "interrupted", "not a number", "full disk", "lost")
SPLIT = {"fsdp": True}
SHARED = {"fsdp": True, "context": 2}
STAGES = {"0": ["k_proj"], "0.5": ["*"]}

RUNS: list[dict[str, Any]] = [
    {"out": "data"},
    {"out": "micro", "micro_batch_tokens": 16},
    {"out": "stages", "trainable": STAGES},
    {"out": "fsdp", "parallel": SPLIT, "loss_chunk": 8},
    {"out": "context", "parallel": SHARED},
    {"out": "positions"},
    {"out": "positions-context", "parallel": SHARED},
    {"out": "positions-lora", "lora": {"rank": 4}},
    {"out": "positions-lora-fsdp", "lora": {"rank": 4, "train_embeddings_and_norms": True}, "parallel": SPLIT},
    {"out": "positions-distilled", "distill": {"weight": 0.7}},
    {"out": "stopped", "interrupted": 4, "parallel": SPLIT},
    {"out": "begun-by-one", "parallel": SPLIT},
    {"out": "uneven", "batch_tokens": 48},
    {"out": "biased", "parallel": SHARED, "methods": "alibi"},
    {"out": "diverged", "not a number": 5},
    {"out": "full", "full disk": 5},
    {"out": "lost", "lost": 5},
]
"""What is run in two processes, one after another; `lost` is last, since it ends them."""


def settings(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    changes = {key: value for key, value in run.items() if key not in ENDS}
    data: dict[str, Any] = {"text": str(folder / "text.txt"), "cache": str(folder / "cache")}
    data["mixture"] = {"text": 0.5, "repeat": 0.5, "longest_period": 8}
    if run["out"].startswith("positions"):
        base = {"from": str(folder / "one" / "checkpoint")}
        if "distill" in changes:
            changes["distill"] = {**changes["distill"], **base}
        extended = {"model": base, "methods": "pi+pose(chunks=2)", "target_length": 64}
        return {**PLAIN, **extended, "data": data, **changes}
    return {**PLAIN, "data": {**data, "vocab_size": 300}, **changes}


def alone(folder: Path, run: dict[str, Any], out: str) -> Path:
    """The same run in this process, without the others."""
    values = {**settings(folder, run), "parallel": {}}
    train(RunConfig.parse(values, "test"), folder / out, progress=False)
    return folder / out


@pytest.fixture(scope="module")
def launched(
    tmp_path_factory: pytest.TempPathFactory, data_folder: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder with all of `RUNS`, done by two processes, and what these and their launcher printed."""
    folder = tmp_path_factory.mktemp("parallel")
    shutil.copy(data_folder / "text.txt", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sizes.SIZES, "tiny", TINY)
        alone(folder, {"out": "one"}, "one")
        begin_alone(folder, patch)
        shutil.copytree(folder / "begun-by-one" / "state", folder / "begun-state")
    for run in RUNS:
        (folder / f"{run['out']}.yaml").write_text(yaml.safe_dump(settings(folder, run)), encoding="utf-8")
    return folder, launch(folder, RUNS)


def launch(folder: Path, runs: list[dict[str, Any]], processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Have so many processes do `runs`, whose settings lie in `folder`."""
    tiny = dataclasses.asdict(TINY)
    (folder / "runs.json").write_text(json.dumps([{**run, "tiny": tiny} for run in runs]), encoding="utf-8")
    script = str(Path(__file__).with_name("parallel_runs.py"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [*launcher, script, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def begin_alone(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Leave `begun-by-one` after four of its steps."""
    step = RunTrainer.training_step

    def interrupted(self: RunTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    patch.setattr(RunTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        alone(folder, {"out": "begun-by-one"}, "begun-by-one")


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def shapes(state: Path) -> dict[str, dict[str, torch.Size]]:
    files = {path.name: load_file(path) for path in state.glob("*.safetensors")}
    return {name: {key: value.shape for key, value in tensors.items()} for name, tensors in files.items()}


def losses(out: Path) -> dict[int | None, float | None]:
    return {record.n: record.value for record in read_records(out) if record.metric == "loss"}


def assert_same_run(found: Path, expected: Path) -> None:
    assert losses(found) == pytest.approx(losses(expected), abs=1e-3)
    ours, theirs = weights(found), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-3, msg=name)
    names = [sorted(path.name for path in (out / "checkpoint").iterdir()) for out in (found, expected)]
    assert names[0] == names[1]
    configs = [(out / "checkpoint" / "config.json").read_text(encoding="utf-8") for out in (found, expected)]
    assert configs[0] == configs[1]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SIZES, "tiny", TINY)


@pytest.mark.parametrize("out", [run["out"] for run in RUNS[:10]])
def test_two_processes_learn_what_one_learns_and_leave_the_same_files(
    launched: tuple[Path, subprocess.CompletedProcess[str]], tiny: None, out: str
) -> None:
    folder, done = launched
    assert f"{out} 0 ended 0" in done.stdout, done.stderr
    run = next(run for run in RUNS if run["out"] == out)
    assert_same_run(folder / out, alone(folder, run, f"{out}-alone"))


def test_each_process_holds_and_sees_its_part(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = launched
    whole = sum(weight.numel() for weight in weights(folder / "one").values())
    for line in (
        f"data 1 holds {whole} sees [2, 16]",
        f"micro 1 holds {whole} sees [1, 16]",
        f"fsdp 1 holds {whole // 2} sees [2, 16]",
        f"context 1 holds {whole // 2} sees [4, 8]",
        f"positions-context 0 holds {whole // 2} sees [4, 8]",
    ):
        assert line in done.stdout, done.stdout


def test_a_run_of_two_processes_goes_on_in_one(
    launched: tuple[Path, subprocess.CompletedProcess[str]], tiny: None
) -> None:
    folder, done = launched
    assert "interrupted at step 4 of 8" in done.stderr
    assert "stopped 0 ended 130" in done.stdout
    assert "stopped 1 ended 130" in done.stdout
    states = sorted(path.name for path in (folder / "stopped" / "state").iterdir())
    assert states == ["step-000000003", "step-000000004"]
    assert shapes(folder / "stopped" / "state" / states[0]) == shapes(folder / "begun-state" / states[0])
    shutil.copytree(folder / "stopped", folder / "stopped-copy")
    assert_same_run(alone(folder, {"out": "stopped"}, "stopped-copy"), folder / "one")


def test_a_run_of_one_process_goes_on_in_two(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = launched
    assert "begun-by-one 0 ended 0" in done.stdout, done.stderr
    assert "begun-by-one 0 holds" not in done.stdout  # the first step was done before
    assert_same_run(folder / "begun-by-one", folder / "one")


def test_one_process_alone_says_what_is_wrong(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = launched
    errors = [line for line in done.stderr.splitlines() if line.startswith("longspan: error")]
    for says in (
        "'batch_tokens' 48 are 3 windows, which 2 processes cannot share evenly: take 64",
        "'parallel.context' cannot share these windows: Alibi adds a bias",
        "the loss became nan at step 5 of 8",
        "free some space or choose another place",
    ):
        assert sum(says in line for line in errors) == 1, errors
    for ended in (
        "full 0 ended 2",
        "full 1 ended 2",
        "uneven 0 ended 2",
        "uneven 1 ended 2",
        "biased 1 ended 2",
        "diverged 0 ended 1",
        "diverged 1 ended 1",
    ):
        assert ended in done.stdout
    assert [path.name for path in (folder / "full" / "state").iterdir()] == ["step-000000003"]


def test_a_lost_process_ends_the_others_with_a_message_and_the_run_goes_on_to_the_same_weights_bit_for_bit(
    launched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = launched
    assert "another process of this run is gone" in done.stderr
    assert "exitcode: -9" in done.stderr
    states = [path.name for path in (folder / "lost" / "state").iterdir() if not path.name.startswith(".")]
    assert states == ["step-000000003"]
    again = launch(folder, [{"out": "lost"}])
    assert "lost 0 ended 0" in again.stdout, again.stderr
    ours, theirs = weights(folder / "lost"), weights(folder / "data")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(folder / "lost") == losses(folder / "data")


def test_four_processes_hold_two_split_models_or_share_windows_by_two(
    tmp_path: Path, data_folder: Path, tiny: None
) -> None:
    shutil.copy(data_folder / "text.txt", tmp_path)
    alone(tmp_path, {"out": "one"}, "one")
    runs: list[dict[str, Any]] = [
        {"out": "replicas", "parallel": {"fsdp": True, "replicas": 2}, "activation_checkpointing": True},
        {"out": "shared", "parallel": SHARED, "activation_checkpointing": True},
    ]
    for run in runs:
        (tmp_path / f"{run['out']}.yaml").write_text(yaml.safe_dump(settings(tmp_path, run)), encoding="utf-8")
    done = launch(tmp_path, runs, processes=4)
    whole = sum(weight.numel() for weight in weights(tmp_path / "one").values())
    assert f"replicas 3 holds {whole // 2} sees [1, 16]" in done.stdout, done.stderr
    assert f"shared 3 holds {whole // 4} sees [2, 8]" in done.stdout, done.stderr
    for run in runs:
        assert_same_run(tmp_path / run["out"], tmp_path / "one")


def test_accelerates_own_launcher_starts_the_same_run(tmp_path: Path, data_folder: Path, tiny: None) -> None:
    shutil.copy(data_folder / "text.txt", tmp_path)
    alone(tmp_path, {"out": "one"}, "one")
    run = {"out": "positions"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(tmp_path, run)), encoding="utf-8")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    told = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "-m", "longspan", "train"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [*launcher, *told, str(tmp_path / "run.yaml"), "--out", str(tmp_path / "two"), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "two", alone(tmp_path, run, "alone"))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="processes that share windows need two GPUs")
@pytest.mark.parametrize("out", ["fsdp", "context", "positions-context"])
def test_two_gpus_learn_what_one_learns(tmp_path: Path, data_folder: Path, tiny: None, out: str) -> None:
    """With the attention kernels of accelerators, and nothing lifted."""
    shutil.copy(data_folder / "text.txt", tmp_path)
    run = {**next(run for run in RUNS if run["out"] == out), "device": "cuda"}
    alone(tmp_path, {"out": "one"}, "one")
    (tmp_path / f"{out}.yaml").write_text(yaml.safe_dump(settings(tmp_path, run)), encoding="utf-8")
    done = launch(tmp_path, [run])
    assert f"{out} 0 ended 0" in done.stdout, done.stderr
    assert_same_run(tmp_path / out, alone(tmp_path, run, f"{out}-alone"))
