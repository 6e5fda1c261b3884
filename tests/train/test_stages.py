"""Only the parts that a stage names learn, and a run that is stopped between stages goes on to the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from longspan.errors import ConfigError
from longspan.train.config import RunConfig
from longspan.train.run import train
from longspan.train.sizes import build_model
from longspan.train.stages import learning
from longspan.train.trainer import RunTrainer

Make = Callable[..., RunConfig]


def trained(config: RunConfig, out: Path) -> dict[str, Tensor]:
    return load_file(train(config, out, progress=False) / "model.safetensors")


def moved(found: dict[str, Tensor], start: dict[str, Tensor]) -> set[str]:
    return {name for name, value in found.items() if not torch.equal(value, start[name])}


def test_only_the_named_parts_move_and_weight_decay_spares_the_rest(run_config: Make, tmp_path: Path) -> None:
    fixed = run_config(steps=1, optimizer={"learning_rate": 1e-30, "weight_decay": 0})
    start = trained(fixed, tmp_path / "start")
    first = trained(run_config(trainable={0: ["k_proj"]}), tmp_path / "first")
    assert moved(first, start) == {f"model.layers.{layer}.self_attn.k_proj.weight" for layer in (0, 1)}
    later = trained(run_config(trainable={0: ["k_proj"], 0.5: ["*norm*"]}), tmp_path / "later")
    assert {name.split(".")[-2] for name in moved(later, start)} == {
        "k_proj", "input_layernorm", "post_attention_layernorm", "norm"
    }  # fmt: skip
    assert moved(trained(run_config(trainable={0: ["*"]}), tmp_path / "all"), start) == set(start)


def test_all_parts_named_equal_no_stages(run_config: Make, tmp_path: Path) -> None:
    named = trained(run_config(trainable={0: ["*"]}), tmp_path / "named")
    assert not moved(named, trained(run_config(), tmp_path / "plain"))


@pytest.mark.parametrize("last", [2, 4])
def test_a_run_stopped_before_or_after_a_stage_begins_goes_on_to_the_same_weights(
    run_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    config = run_config(trainable={0: ["k_proj"], 0.5: ["q_proj", "k_proj"], 0.8: ["*"]})
    whole = trained(config, tmp_path / "whole")
    step = RunTrainer.training_step

    def failing(self: RunTrainer, *args: Any, **kwargs: Any) -> Tensor:
        if self.state.global_step == last:
            raise RuntimeError("stopped")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(RunTrainer, "training_step", failing)
    with pytest.raises(RuntimeError, match="stopped"):
        train(config, tmp_path / "stopped", progress=False)
    monkeypatch.setattr(RunTrainer, "training_step", step)
    assert not moved(trained(config, tmp_path / "stopped"), whole)


def test_a_part_that_is_not_there_is_named_with_those_that_are() -> None:
    model = build_model("llama", "1m", 300, 16, 1e4, "rope", seed=0)
    with pytest.raises(ConfigError, match=r"no part 't_proj': choose from .*k_proj"):
        learning(model, ["k_proj", "t_proj"])


@pytest.mark.parametrize(
    ("trainable", "message"),
    [({0.5: ["k_proj"]}, "give the share 0"), ({0: []}, "trainable"), ({0: ["k_proj"], 2: ["*"]}, "trainable")],
)
def test_stages_that_cannot_be_followed_are_refused(run_config: Make, trainable: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config(trainable=trainable)
