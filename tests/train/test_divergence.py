"""A step that diverges stops the run or is left out of it, and the records say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from longspan.errors import TrainingError
from longspan.records import read_records
from longspan.train.config import RunConfig
from longspan.train.run import train
from longspan.train.trainer import SKIPS, RunTrainer
from train.test_run import losses, same, weights

Make = Callable[..., RunConfig]


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int], factor: float = torch.nan) -> None:
    """Have the second forward pass of these steps (counted from 1) go wrong."""
    compute_loss = RunTrainer.compute_loss
    passes: list[tuple[RunTrainer, int]] = []

    def poisoned(self: RunTrainer, *args: Any, **kwargs: Any) -> Any:
        step = self.state.global_step + 1
        passes.append((self, step))
        loss = compute_loss(self, *args, **kwargs)
        return loss * factor if step in steps and passes.count((self, step)) == 2 else loss

    monkeypatch.setattr(RunTrainer, "compute_loss", poisoned)


def without(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have the optimizer left alone at a step: the other road to the same weights."""
    begin = RunTrainer.create_optimizer

    def create(self: RunTrainer, *args: Any, **kwargs: Any) -> Any:
        optimizer = begin(self, *args, **kwargs)
        move = optimizer.step
        optimizer.step = lambda *a, **k: None if self.state.global_step + 1 == step else move(*a, **k)
        return optimizer

    monkeypatch.setattr(RunTrainer, "create_optimizer", create)


def test_a_skipped_step_moves_no_weight_and_no_moment_and_is_recorded(
    tmp_path: Path, run_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(on_divergence="skip", micro_batch_tokens=32, save_every=3)
    with monkeypatch.context() as patch:
        poison(patch, {3})
        train(config, tmp_path / "skipped", progress=False)
    with monkeypatch.context() as patch:
        without(patch, 3)
        train(config, tmp_path / "without", progress=False)
    assert same(weights(tmp_path / "skipped"), weights(tmp_path / "without"))
    skipped = [record for record in read_records(tmp_path / "skipped") if record.metric == "skipped"]
    assert [(record.n, record.value) for record in skipped] == [(3 * 64, None)]
    assert [n for n, _ in losses(tmp_path / "skipped")] == [128, 256, 384]
    assert all(value is not None and 4 < value < 8 for _, value in losses(tmp_path / "skipped"))


def test_a_gradient_beyond_the_limit_diverges_too(
    tmp_path: Path, run_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {4}, 1e6)
    config = run_config(norm_limit=1000, micro_batch_tokens=32)
    with pytest.raises(TrainingError, match=r"norm became [\d.e+]+ at step 4 of 6; .*state after step 3"):
        train(config, tmp_path / "stopped", progress=False)
    train(run_config(norm_limit=1000, micro_batch_tokens=32, on_divergence="skip"), tmp_path / "on", progress=False)
    (record,) = (record for record in read_records(tmp_path / "on") if record.metric == "skipped")
    assert record.n == 4 * 64
    assert record.value is not None
    assert record.value > 1000


def test_a_run_killed_after_a_skipped_step_goes_on_to_the_same_weights(
    tmp_path: Path, run_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(on_divergence="skip", micro_batch_tokens=32, log_every=4)
    poison(monkeypatch, {3})
    train(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "_get_grad_norm", _killed_at(5, RunTrainer._get_grad_norm))
        with pytest.raises(RuntimeError, match="killed"):
            train(config, tmp_path / "killed", progress=False)
    train(config, tmp_path / "killed", progress=False)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    for metric in ("loss", "skipped"):
        found, expected = (
            [(record.n, record.value) for record in read_records(tmp_path / name) if record.metric == metric]
            for name in ("killed", "whole")
        )
        assert found == expected


def _killed_at(step: int, norm: Any) -> Any:
    def killed(self: RunTrainer, *args: Any, **kwargs: Any) -> float:
        if self.state.global_step == step - 1:
            raise RuntimeError("killed")
        return float(norm(self, *args, **kwargs))

    return killed


def test_a_run_that_skips_step_after_step_stops(
    tmp_path: Path, run_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, set(range(3, 99)))
    config = run_config(on_divergence="skip", micro_batch_tokens=32, steps=20)
    with pytest.raises(TrainingError, match=f"at step {2 + SKIPS} of 20"):
        train(config, tmp_path, progress=False)
