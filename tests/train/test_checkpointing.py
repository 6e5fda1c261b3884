"""Activation checkpointing computes layers again and changes no bit, whatever the methods do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import checkpoint

from longspan.train.config import RunConfig
from longspan.train.run import train
from train.test_run import same, weights

Make = Callable[..., RunConfig]
METHODS = (
    "yarn",
    "dynamic_ntk",
    "coca+log_n",
    "pope+pi",
    "alibi",
    "pi+s2(group=8)",
    "ntk+pose",
    "random_positions",
    "crd_ntk",
)
"""One for each way in which a method acts: tables, lengths, features, their parameters, bias, parts, positions."""
BY_DEFAULT = ("yarn", "dynamic_ntk", "pope+pi", "ntk+pose")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base")


def tuned(base: Path, run_config: Make, methods: str, **changes: Any) -> RunConfig:
    if not (base / "run" / "checkpoint").exists():
        train(run_config(steps=1), base / "run", progress=False)
    data = {"text": run_config().data.text}
    start = {"model": {"from": str(base / "run" / "checkpoint")}, "data": data, "methods": methods}
    return run_config(**{**start, "target_length": 64, "steps": 3, **changes})


@pytest.mark.parametrize(
    "methods", [pytest.param(text, marks=() if text in BY_DEFAULT else pytest.mark.slow) for text in METHODS]
)
def test_weights_are_the_same_bit_for_bit(
    methods: str, base: Path, run_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tuned(base, run_config, methods), tmp_path / "plain", progress=False)
    again = []
    inner = checkpoint.checkpoint
    monkeypatch.setattr(checkpoint, "checkpoint", lambda *a, **k: again.append(k["use_reentrant"]) or inner(*a, **k))
    monkeypatch.setattr("transformers.modeling_utils.checkpoint", checkpoint.checkpoint)
    train(tuned(base, run_config, methods, activation_checkpointing=True), tmp_path / "again", progress=False)
    assert again == [False] * 2 * 3  # two layers, three steps
    assert same(weights(tmp_path / "again"), weights(tmp_path / "plain"))


def test_adapters_are_the_same_bit_for_bit(base: Path, run_config: Make, tmp_path: Path) -> None:
    lora = {"rank": 2, "dropout": 0.2}
    train(tuned(base, run_config, "pi", lora=lora), tmp_path / "plain", progress=False)
    train(tuned(base, run_config, "pi", lora=lora, activation_checkpointing=True), tmp_path / "again", progress=False)
    assert same(weights(tmp_path / "again"), weights(tmp_path / "plain"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a processor needs the C++ compiler g++")
def test_it_goes_together_with_compiled_layers(base: Path, run_config: Make, tmp_path: Path) -> None:
    train(tuned(base, run_config, "coca+pi"), tmp_path / "plain", progress=False)
    both = {"activation_checkpointing": True, "compile": True}
    train(tuned(base, run_config, "coca+pi", **both), tmp_path / "both", progress=False)
    found, expected = weights(tmp_path / "both"), weights(tmp_path / "plain")
    for name in expected:
        # AdamW's first steps are as long as the learning rate however small a gradient is, rounding included
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3, msg=name)
