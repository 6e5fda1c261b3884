"""Training under a position method: the control, resuming, accumulation, the probe, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.models.llama import modeling_llama

from longspan import models, surgery
from longspan.errors import ConfigError, MethodError, TrainingError
from longspan.registry import format_methods
from longspan.train import sizes
from longspan.train.config import RunConfig
from longspan.train.run import train
from longspan.train.trainer import RunTrainer
from train.conftest import TINY

Make = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A trained model of window 16."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sizes.SIZES, "tiny", TINY)
        values = {
            "name": "base", "model": {"size": "tiny"}, "train_length": 16, "steps": 4, "batch_tokens": 64,
            "data": {"text": str(data_folder / "text.txt"), "vocab_size": 300, "cache": str(data_folder / "cache")},
            "device": "cpu", "threads": 1,
        }  # fmt: skip
        return train(RunConfig.parse(values, "test"), tmp_path_factory.mktemp("base"), progress=False)


@pytest.fixture
def tuned(run_config: Make, base: Path, data_folder: Path) -> Make:
    """tuned("yarn+pose") is a run from the base to a window of 256."""

    def make(methods: str, **changes: object) -> RunConfig:
        data = {"text": str(data_folder / "text.txt"), "mixture": {"text": 0.7, "repeat": 0.3, "longest_period": 8}}
        fixed = {"model": {"from": str(base)}, "target_length": 256, "data": data, "methods": methods}
        return run_config(**{**fixed, **changes})

    return make


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_one_chunk_trains_to_the_weights_of_the_plain_run_bit_for_bit(tmp_path: Path, tuned: Make) -> None:
    train(tuned("pi"), tmp_path / "plain", progress=False)
    train(tuned("pi+pose(chunks=1)"), tmp_path / "one", progress=False)
    train(tuned("pi+pose"), tmp_path / "two", progress=False)
    assert same(tmp_path / "plain", tmp_path / "one")
    assert not same(tmp_path / "plain", tmp_path / "two")


@pytest.mark.parametrize(
    "methods", ["yarn+pose(chunks=3)", "crd_ntk(stage_steps=2)", "pi+random_positions(per='batch')"]
)
def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, tuned: Make, methods: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tuned(methods), tmp_path / "whole", progress=False)
    step = RunTrainer.training_step

    def fail(self: RunTrainer, *args: object, **kwargs: object) -> torch.Tensor:
        if self.state.global_step == 5:
            raise TrainingError("stopped")
        return step(self, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(RunTrainer, "training_step", fail)
        with pytest.raises(TrainingError, match="stopped"):
            train(tuned(methods), tmp_path / "killed", progress=False)
    assert (tmp_path / "killed" / "state").exists()
    train(tuned(methods), tmp_path / "killed", progress=False)
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_growth_follows_the_step_of_the_run_through_micro_batches_and_resuming(
    tmp_path: Path, tuned: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    given = surgery.rotary.TrainingStep

    def note(positions: torch.Tensor, step: int) -> object:
        seen.append(step)
        return given(positions, step)

    monkeypatch.setattr(surgery.rotary, "TrainingStep", note)
    config = tuned("crd_ntk(stage_steps=2)", micro_batch_tokens=32)
    train(config, tmp_path, progress=False)
    # one probe before the first step, if a window among the first is wrapped; then two passes a step
    assert seen[-12:] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    trained = models.load(tmp_path / "checkpoint")
    assert format_methods(surgery.current_methods(trained)) == "crd_ntk(period=32, stage_steps=2, trained_steps=6)"


def test_micro_batches_of_a_step_share_its_offset(tmp_path: Path, tuned: Make) -> None:
    train(tuned("crd_ntk", micro_batch_tokens=64), tmp_path / "whole", progress=False)
    train(tuned("crd_ntk", micro_batch_tokens=16), tmp_path / "split", progress=False)
    for name, expected in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "split")[name], expected, rtol=1e-3, atol=1e-4)


def test_the_trained_model_is_used_at_plain_positions(tmp_path: Path, tuned: Make) -> None:
    train(tuned("pi+pose"), tmp_path / "run", progress=False)
    model = models.load(tmp_path / "run" / "checkpoint")
    assert surgery.target_length(model) == 256
    other = models.load(tmp_path / "run" / "checkpoint")
    tokens = torch.arange(3, 203)[None]
    with torch.no_grad():
        implied = model(tokens).logits
        said = other(tokens, position_ids=torch.arange(200)[None]).logits
    assert torch.equal(implied, said)


def test_a_mask_that_cuts_at_skips_is_found_before_training(
    tmp_path: Path, tuned: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cutting(*args: object, **kwargs: object) -> object:
        """What a library does that takes the given positions for those of packed documents."""
        model = RUNNING[-1]
        positions = next(m.given.positions for m in model.modules() if getattr(m, "given", None) is not None)
        return create_causal_mask(*args, **{**kwargs, "position_ids": positions})

    forward = modeling_llama.LlamaModel.forward
    RUNNING: list[PreTrainedModel] = []

    def noted(self: PreTrainedModel, *args: object, **kwargs: object) -> object:
        RUNNING.append(self)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(modeling_llama, "create_causal_mask", cutting)
    monkeypatch.setattr(modeling_llama.LlamaModel, "forward", noted)
    with pytest.raises(MethodError, match="no effect across a skip"):
        train(tuned("pi+pose"), tmp_path, progress=False)


def test_positions_without_a_longer_window_are_refused(tuned: Make, run_config: Make) -> None:
    with pytest.raises(ConfigError, match="set 'target_length'"):
        tuned("pose", target_length=None)
    with pytest.raises(ConfigError, match="set 'target_length'"):
        run_config(methods="coca+pose")


def test_skip_align_on_plain_text_is_refused(tmp_path: Path, tuned: Make) -> None:
    with pytest.raises(MethodError, match="train it on conversations"):
        train(tuned("pi+skip_align"), tmp_path, progress=False)


def test_a_period_that_slows_nothing_is_refused_before_training(tmp_path: Path, tuned: Make) -> None:
    with pytest.raises(MethodError, match="slows no pair"):
        train(tuned("crd_ntk(period=16)"), tmp_path, progress=False)
