"""Windows shared by heads in two and four processes, for real: what one process learns, in the same files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from longspan.train import sizes
from longspan.train.run import CHECKPOINT
from train.test_parallel import TINY, alone, assert_same_run, begin_alone, launch, losses, settings, shapes, weights

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARED = {"fsdp": True, "ulysses": 2}
RUNS: list[dict[str, Any]] = [
    {"out": "whole"},
    {"out": "chunks", "loss_chunk": 8, "micro_batch_tokens": 32, "activation_checkpointing": True},
    {"out": "wide", "methods": "pope"},
    {"out": "grouped", "model": "few key heads", "methods": "pi+log_n", "target_length": 64},
    {"out": "positions"},
    {"out": "positions-lora", "lora": {"rank": 4}},
    {"out": "neox", "model": {"family": "gpt_neox", "size": "tiny"}},
    {"out": "stopped", "interrupted": 4},
    {"out": "begun-by-one"},
    {"out": "biased", "methods": "alibi"},
]
"""What is run in two processes that share windows by heads, one after another."""


def few_key_heads(folder: Path) -> None:
    """A folder with a model whose two heads share one key head, and the tokenizer of `one`."""
    source, out = folder / "one" / CHECKPOINT, folder / "few-key-heads"
    shutil.copytree(source, out)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(out)


@pytest.fixture(scope="module")
def launched(
    tmp_path_factory: pytest.TempPathFactory, data_folder: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder with all of `RUNS`, done by two processes, and what these and their launcher printed."""
    folder = tmp_path_factory.mktemp("ulysses")
    shutil.copy(data_folder / "text.txt", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sizes.SIZES, "tiny", TINY)
        alone(folder, {"out": "one"}, "one")
        begin_alone(folder, patch)
        shutil.copytree(folder / "begun-by-one" / "state", folder / "begun" / "state")
    few_key_heads(folder)
    for run in RUNS:
        values = settings(folder, described(folder, run)) | {"parallel": SHARED}
        (folder / f"{run['out']}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder, launch(folder, RUNS)


def described(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    if run.get("model") != "few key heads":
        return run
    data = {"text": str(folder / "text.txt"), "mixture": {"text": 0.5, "repeat": 0.5, "longest_period": 8}}
    return {**run, "model": {"from": str(folder / "few-key-heads")}, "data": data}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SIZES, "tiny", TINY)


@pytest.mark.parametrize("out", [run["out"] for run in RUNS[:6]])
def test_two_processes_that_share_windows_by_heads_learn_what_one_learns(
    launched: tuple[Path, subprocess.CompletedProcess[str]], tiny: None, out: str
) -> None:
    folder, done = launched
    assert f"{out} 0 ended 0" in done.stdout, done.stderr
    run = described(folder, next(run for run in RUNS if run["out"] == out))
    assert_same_run(folder / out, alone(folder, run, f"{out}-alone"))


def test_a_family_that_torchs_ring_attention_does_not_find_learns_what_it_learns_alone(
    launched: tuple[Path, subprocess.CompletedProcess[str]], tiny: None
) -> None:
    folder, done = launched
    assert "neox 0 holds" in done.stdout
    run = next(run for run in RUNS if run["out"] == "neox")
    # not its weights: key biases that do not turn have no gradient but rounding, which Adam makes large
    assert losses(folder / "neox") == pytest.approx(losses(alone(folder, run, "neox-alone")), abs=1e-3)


def test_each_of_them_holds_half_of_the_weights_and_sees_half_of_each_window(
    launched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = launched
    whole = sum(weight.numel() for weight in weights(folder / "one").values())
    assert f"whole 0 holds {whole // 2} sees [4, 8]" in done.stdout
    assert f"chunks 1 holds {whole // 2} sees [2, 8]" in done.stdout


def test_a_run_goes_on_from_two_to_one_and_from_one_to_two(
    launched: tuple[Path, subprocess.CompletedProcess[str]], tiny: None
) -> None:
    folder, done = launched
    assert "stopped 1 ended 130" in done.stdout
    states = [shapes(folder / out / "state" / "step-000000003") for out in ("stopped", "begun")]
    assert states[0] == states[1]
    alone(folder, next(run for run in RUNS if run["out"] == "stopped"), "stopped")
    assert_same_run(folder / "stopped", folder / "one")
    assert "begun-by-one 0 ended 0" in done.stdout
    assert_same_run(folder / "begun-by-one", folder / "one")


def test_a_method_that_needs_whole_windows_at_once_is_refused_in_one_line(
    launched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    done = launched[1]
    assert done.stderr.count("'parallel.ulysses' cannot share these windows: Alibi adds a bias") == 1
    assert "biased 0 ended 2" in done.stdout
    assert "biased 1 ended 2" in done.stdout


def test_four_processes_share_two_halves_of_a_batch(tmp_path: Path, data_folder: Path, tiny: None) -> None:
    shutil.copy(data_folder / "text.txt", tmp_path)
    alone(tmp_path, {"out": "one"}, "one")
    run = {"out": "shared", "parallel": SHARED}
    (tmp_path / "shared.yaml").write_text(yaml.safe_dump(settings(tmp_path, run)), encoding="utf-8")
    done = launch(tmp_path, [run], processes=4)
    whole = sum(weight.numel() for weight in weights(tmp_path / "one").values())
    assert f"shared 3 holds {whole // 4} sees [2, 8]" in done.stdout, done.stderr
    assert_same_run(tmp_path / "shared", tmp_path / "one")
