"""Agreement while a window is extended: what it measures, what it changes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from longspan import models, surgery
from longspan.errors import ConfigError, TrainingError
from longspan.surgery import placed
from longspan.train import sizes
from longspan.train.config import RunConfig
from longspan.train.preserve import Agreement, PreserveSettings
from longspan.train.run import train
from longspan.train.trainer import RunTrainer
from train.conftest import TINY

Make = Callable[..., RunConfig]
SHORT = 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A trained model of window 16."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sizes.SIZES, "tiny", TINY)
        values = {
            "name": "base", "model": {"size": "tiny"}, "train_length": SHORT, "steps": 4, "batch_tokens": 64,
            "data": {"text": str(data_folder / "text.txt"), "vocab_size": 300, "cache": str(data_folder / "cache")},
            "device": "cpu", "threads": 1,
        }  # fmt: skip
        return train(RunConfig.parse(values, "test"), tmp_path_factory.mktemp("base"), progress=False)


@pytest.fixture
def tuned(run_config: Make, base: Path, data_folder: Path) -> Make:
    """tuned(preserve="agreement") is a PoSE run from the base to a window of 64."""

    def make(**changes: object) -> RunConfig:
        data = {"text": str(data_folder / "text.txt"), "mixture": {"text": 1.0}}
        fixed = {"model": {"from": str(base)}, "target_length": 64, "data": data, "methods": "yarn+pose"}
        return run_config(**{**fixed, **changes})

    return make


def agreement(base: Path, **settings: object) -> Agreement:
    values = PreserveSettings.parse({"loss": "agreement", **settings}, "test")
    return Agreement.load(values, str(base), SHORT, torch.device("cpu"))


def extended(base: Path, methods: str) -> PreTrainedModel:
    model = models.load_model(base)
    surgery.extend(model, methods, target_length=64)
    return model


def ids(base: Path) -> Tensor:
    return torch.randint(3, models.load_model(base).config.vocab_size, (3, SHORT), generator=torch.manual_seed(0))


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def test_a_model_equal_to_the_original_has_no_loss_and_no_gradient(base: Path) -> None:
    student, preserved = models.load_model(base), agreement(base)
    loss = preserved.loss(student, ids(base), 3)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert max(float(weight.grad.abs().max()) for weight in student.parameters() if weight.grad is not None) < 1e-7
    assert all(weight.grad is None for weight in preserved.teacher.parameters())


@pytest.mark.parametrize("methods", ["yarn", "yarn+pose", "crd_ntk(growing=false)"])
def test_it_compares_the_model_as_it_will_be_used_with_the_plain_original(base: Path, methods: str) -> None:
    """The other side: transformers' own model, and the definition of the divergence."""
    student, tokens = extended(base, methods), ids(base)
    with torch.no_grad():
        p = AutoModelForCausalLM.from_pretrained(base)(tokens).logits[:, :-1].softmax(-1)
        q = student.eval()(tokens).logits[:, :-1].softmax(-1)
    by_definition = 2.5 * (p * (p / q).log()).sum(-1).mean()
    assert by_definition > 1e-4
    student.train()
    positions = torch.arange(SHORT).expand(3, -1) * 3
    with placed(student, positions if "pose" in methods or "crd" in methods else None):
        found = agreement(base, weight=2.5).loss(student, tokens, 3)
    assert student.training
    assert found.item() == pytest.approx(by_definition.item(), rel=1e-4)


def test_windows_longer_than_the_original_are_read_in_their_first_part(base: Path) -> None:
    preserved = Agreement(PreserveSettings.parse({"loss": "agreement"}, "test"), models.load_model(base), 64)
    assert preserved.length == SHORT
    student, tokens = extended(base, "yarn"), ids(base)
    long = torch.cat([tokens, torch.zeros(3, 48, dtype=torch.long)], 1)
    assert torch.equal(preserved.loss(student, long, 3), preserved.loss(student, tokens, 3))


def test_it_keeps_short_text_as_it_was(tuned: Make, base: Path, tmp_path: Path) -> None:
    tokens = ids(base)
    wanted = models.load_model(base)(tokens).logits.detach()
    far = {}
    for name, changes in (("with", {"preserve": {"loss": "agreement", "weight": 20}}), ("without", {})):
        changed = tuned(steps=12, optimizer={"learning_rate": 3e-3}, **changes)
        model = models.load_model(train(changed, tmp_path / name, progress=False))
        far[name] = (model(tokens).logits - wanted).square().mean().item()
    assert far["with"] < 0.7 * far["without"]


def test_micro_batches_change_it_by_rounding_alone(tuned: Make, tmp_path: Path) -> None:
    whole, parts = (tuned(preserve="agreement", steps=3, **more) for more in ({}, {"micro_batch_tokens": 16}))
    train(whole, tmp_path / "whole", progress=False)
    train(parts, tmp_path / "parts", progress=False)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.allclose(one[name], two[name], atol=2e-5) for name in one)


def test_a_killed_run_resumes_to_the_same_weights(tuned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tuned(preserve="agreement"), tmp_path / "whole", progress=False)
    step = RunTrainer.training_step

    def fail(self: RunTrainer, *args: object, **kwargs: object) -> Tensor:
        if self.state.global_step == 3:
            raise TrainingError("stopped")
        return step(self, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(RunTrainer, "training_step", fail)
        with pytest.raises(TrainingError, match="stopped"):
            train(tuned(preserve="agreement"), tmp_path / "killed", progress=False)
    train(tuned(preserve="agreement"), tmp_path / "killed", progress=False)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_settings_without_effect_are_refused(run_config: Make, tuned: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'preserve' is for fine-tuning"):
        run_config(preserve="agreement")
    with pytest.raises(ConfigError, match=r"preserve\.loss.*'agreement', not 'agrement'"):
        tuned(preserve="agrement")
    with pytest.raises(ConfigError, match=r"preserve\.weight"):
        tuned(preserve={"loss": "agreement", "weight": 0})
    with pytest.raises(ConfigError, match="'preserve' reads whole windows"):
        tuned(preserve="agreement", parallel={"context": 2, "fsdp": True})
    with pytest.raises(ConfigError, match=r"preserve\.length 32 is more than the 16 tokens"):
        train(tuned(preserve={"loss": "agreement", "length": 32}), tmp_path / "run", progress=False)
