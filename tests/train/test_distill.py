"""Learning what the original model predicts, and going on from a model that is turned into CoCA."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import longspan
from longspan import surgery
from longspan.errors import ConfigError, DataError
from longspan.records import read_records
from longspan.train.config import RunConfig
from longspan.train.distill import DistillSettings, Teacher, kl_divergence
from longspan.train.run import train
from longspan.train.trainer import RunTrainer

Make = Callable[..., RunConfig]
Tune = Callable[..., RunConfig]


@pytest.fixture
def base(tmp_path: Path, run_config: Make) -> Path:
    """A trained model to go on from."""
    return train(run_config(steps=2), tmp_path / "base", progress=False)


@pytest.fixture
def tune(run_config: Make, base: Path) -> Tune:
    """tune(steps=4, ...) goes on from `base`."""

    def make(**changes: Any) -> RunConfig:
        data = {key: value for key, value in run_config().to_json()["data"].items() if key in ("text", "cache")}
        return run_config(**{"model": {"from": str(base)}, "data": data, **changes})

    return make


def weights(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / "model.safetensors")


def moved(found: dict[str, Tensor], start: dict[str, Tensor]) -> set[str]:
    return {name for name, value in found.items() if not torch.equal(value, start[name])}


def test_the_divergence_is_the_one_worked_out_by_hand() -> None:
    """Two tokens, P = (3/4, 1/4) and Q = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2; the last place predicts nothing."""
    wanted = torch.tensor([[[3.0, 1.0], [1.0, 1.0], [5.0, 1.0]]]).log()
    logits = torch.zeros(1, 3, 2)
    by_hand = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    assert torch.allclose(kl_divergence(wanted, logits, torch.tensor([[0, 1, 0]]), 1.0), by_hand)
    assert kl_divergence(wanted, logits, torch.tensor([[0, -100, 0]]), 1.0) == 0
    # at temperature 2 the first is (sqrt 3, 1) / (sqrt 3 + 1)
    p = torch.tensor([3**0.5, 1.0]) / (3**0.5 + 1)
    assert torch.allclose(kl_divergence(wanted, logits, torch.tensor([[0, 1, 0]]), 2.0), (p * (p / 0.5).log()).sum())


def test_the_loss_mixes_both_by_weight_and_temperature(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    ids, logits = torch.arange(12).view(2, 6), torch.randn(2, 6, model.config.vocab_size)
    with torch.no_grad():
        wanted = model(ids).logits
    p, q = ((x[:, :-1] / 3).softmax(-1) for x in (wanted, logits))
    divergence = (p * (p.log() - q.log())).sum() / 10
    settings = DistillSettings.model_validate({"from": str(base), "weight": 0.25, "temperature": 3})
    loss = Teacher(settings, model).loss(torch.tensor(2.0), logits, ids, ids, 10)
    assert loss.item() == pytest.approx(0.75 * 2.0 + 0.25 * 9 * divergence.item(), rel=1e-4)


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(base: Path, tune: Tune, tmp_path: Path) -> None:
    still = {"learning_rate": 1.0, "weight_decay": 0, "schedule": "constant", "clip": 1e9}
    config = tune(steps=2, distill={"from": str(base), "weight": 1}, optimizer=still, log_every=1)
    gradients: list[float] = []
    clipped = RunTrainer._get_grad_norm

    def noting(self: RunTrainer, model: Any, grad_norm: Any = None) -> Any:
        gradients.append(max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None))
        raise KeyboardInterrupt

    try:
        RunTrainer._get_grad_norm = noting  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "equal", progress=False)
    finally:
        RunTrainer._get_grad_norm = clipped  # type: ignore[method-assign]
    assert max(gradients) < 1e-7


def test_distillation_changes_what_is_learned_and_is_recorded(base: Path, tune: Tune, tmp_path: Path) -> None:
    plain = train(tune(methods="coca"), tmp_path / "plain", progress=False)
    taught = train(tune(methods="coca", distill={"from": str(base)}), tmp_path / "taught", progress=False)
    assert moved(weights(taught), weights(plain))
    losses = [record.value for record in read_records(tmp_path / "taught") if record.metric == "loss"]
    assert losses != [record.value for record in read_records(tmp_path / "plain") if record.metric == "loss"]
    assert RunConfig.from_yaml(tmp_path / "taught" / "run.yaml").distill == DistillSettings(**{"from": str(base)})


def test_micro_batches_of_a_distilled_run_add_up_to_the_batch(base: Path, tune: Tune, tmp_path: Path) -> None:
    found = [
        weights(train(tune(distill={"from": str(base)}, methods="coca", **more), tmp_path / name, progress=False))
        for name, more in (("whole", {}), ("parts", {"micro_batch_tokens": 16}))
    ]
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])


def test_a_distilled_run_that_was_stopped_goes_on_to_the_same_weights(
    base: Path, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tune(methods="coca", start="fit", distill={"from": str(base)}, trainable={0: ["k_proj"], 0.5: ["*"]})
    whole = train(config, tmp_path / "whole", progress=False)
    step = RunTrainer.training_step

    def failing(self: RunTrainer, *args: Any, **kwargs: Any) -> Tensor:
        if self.state.global_step == 4:
            raise RuntimeError("stopped")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(RunTrainer, "training_step", failing)
    with pytest.raises(RuntimeError, match="stopped"):
        train(config, tmp_path / "stopped", progress=False)
    monkeypatch.setattr(RunTrainer, "training_step", step)
    assert not moved(weights(train(config, tmp_path / "stopped", progress=False)), weights(whole))


def test_no_step_makes_the_model_and_leaves_its_weights(base: Path, tune: Tune, tmp_path: Path) -> None:
    checkpoint = train(tune(steps=0, methods="coca"), tmp_path / "none", progress=False)
    assert not moved(weights(checkpoint), weights(base))
    assert surgery.current_methods(longspan.load(checkpoint)) == (longspan.Coca(),)
    for start in ("random", "fit"):
        begun = train(tune(steps=0, methods="coca", start=start), tmp_path / start, progress=False)
        names = {f"model.layers.{layer}.self_attn.k_proj.weight" for layer in (0, 1)}
        assert moved(weights(begun), weights(base)) == names


def test_settings_without_effect_are_refused(run_config: Make, base: Path, tune: Tune, tmp_path: Path) -> None:
    for name, value in (("start", "fit"), ("distill", {"from": str(base)})):
        with pytest.raises(ConfigError, match=f"'{name}' is for fine-tuning"):
            run_config(**{name: value})
    with pytest.raises(ConfigError, match="'start' is how CoCA's t begins"):
        tune(start="fit", methods="yarn", target_length=64)
    with pytest.raises(ConfigError, match="weight"):
        tune(distill={"from": str(base), "weight": 0})


def test_a_teacher_of_another_kind_is_refused(base: Path, tune: Tune, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base, other)
    tokenizer = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(tokenizer.replace('"<pad>"', '"<fill>"'))
    with pytest.raises(DataError, match=r"distill\.from: .*other has another tokenizer"):
        train(tune(distill={"from": str(other)}), tmp_path / "run", progress=False)
    (other / "tokenizer.json").write_text(tokenizer)
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"max_position_embeddings": 16', '"max_position_embeddings": 8'))
    with pytest.raises(ConfigError, match="reads 8 tokens, fewer than train_length 16"):
        train(tune(distill={"from": str(other)}), tmp_path / "run", progress=False)


def test_a_run_that_is_done_is_not_taken_for_one_with_another_teacher(base: Path, tune: Tune, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(base, teacher)
    config = tune(steps=1, distill={"from": str(teacher)})
    train(config, tmp_path / "run", progress=False)
    save_file(
        {name: weight + 1 for name, weight in weights(teacher).items()},
        teacher / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(DataError, match=r"distill\.from \(.*teacher\) has changed since the run in .*run began"):
        train(config, tmp_path / "run", progress=False)
