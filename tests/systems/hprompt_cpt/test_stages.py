"""Training of stages: plain without prompts, the same after a stop, each baseline by its definition."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from longspan.records import read_records
from longspan.systems.hprompt_cpt.arm_settings import ArmSettings
from longspan.systems.hprompt_cpt.config import CptConfig, StageSettings
from longspan.systems.hprompt_cpt.consolidation import Consolidation, consolidate
from longspan.systems.hprompt_cpt.learner import Learner, Objective
from longspan.systems.hprompt_cpt.loop import Loop
from longspan.systems.hprompt_cpt.prompted import PromptedModel
from longspan.systems.hprompt_cpt.prompts import PromptSource
from longspan.systems.hprompt_cpt.run import train
from systems.hprompt_cpt.conftest import make_batch

Backbone = Callable[..., PreTrainedModel]
Make = Callable[..., CptConfig]
HPROMPT = {"prompt": {"length": 2, "components": 3}, "agreement": {}, "disagreement": {}}
SETTINGS = StageSettings.parse(
    {"steps": 3, "optimizer": {"learning_rate": 1e-2, "warmup": 0, "schedule": "constant"}, "save_every": 9}, "test"
)


def weights(stage: Path) -> dict[str, Tensor]:
    found = load_file(stage / "model" / "model.safetensors")
    prompts = stage / "prompts.safetensors"
    return found | (load_file(prompts) if prompts.exists() else {})


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def trained(model: nn.Module, terms: Callable[[int], dict[str, Tensor]], folder: Path) -> None:
    Loop(model, SETTINGS, SETTINGS.steps, folder, 0).run(terms)


@pytest.mark.parametrize(("kind", "causal"), [("roberta", False), ("llama", True)])
def test_without_prompts_and_terms_training_is_plain_training_bit_for_bit(
    backbone: Backbone, tmp_path: Path, kind: str, causal: bool
) -> None:
    """The other side: transformers' own loss, torch's AdamW and clipping, no code of this project."""
    ours, plain = backbone(kind), backbone(kind).train()
    objective = Objective(Learner(PromptedModel(ours), None, causal=causal), ArmSettings(), None, None, 0.2, 0)
    trained(objective.learner, lambda step: objective.terms(make_batch(seed=step), step), tmp_path)
    wide = [weight for weight in plain.parameters() if weight.ndim > 1]
    flat = [weight for weight in plain.parameters() if weight.ndim == 1]
    groups = [{"params": wide, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    for step in range(3):
        batch = make_batch(seed=step)
        optimizer.zero_grad()
        plain(input_ids=batch.input_ids, attention_mask=batch.mask.long(), labels=batch.labels).loss.backward()
        torch.nn.utils.clip_grad_norm_([*wide, *flat], 1.0)
        optimizer.step()
    assert same(ours.state_dict(), plain.state_dict())


def test_constant_weights_of_frozen_components_are_a_fixed_prefix(backbone: Backbone, tmp_path: Path) -> None:
    arm = ArmSettings.parse({"prompt": {"length": 3, "components": 4}}, "test")
    assert arm.prompt is not None
    source = PromptSource(arm.prompt, backbone("roberta"), 0)
    torch.nn.init.zeros_(source.maker.mixer.weight)
    torch.nn.init.zeros_(source.maker.mixer.bias)
    prefix = source.maker.components.mean(0).detach().expand(3, -1, -1)
    source.requires_grad_(False)
    ours, other = backbone("roberta"), PromptedModel(backbone("roberta"))
    objective = Objective(Learner(PromptedModel(ours), source, causal=False), arm, None, None, 0.2, 0)
    trained(objective.learner, lambda step: objective.terms(make_batch(seed=step), step), tmp_path / "ours")

    def fixed(step: int) -> dict[str, Tensor]:
        batch = make_batch(seed=step)
        logits = other(batch.input_ids, batch.mask, prefix).logits.flatten(0, 1)
        return {"language": nn.functional.cross_entropy(logits, batch.labels.flatten())}

    trained(other, fixed, tmp_path / "other")
    one, two = ours.state_dict(), other.model.state_dict()
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_a_stage_that_was_stopped_goes_on_to_the_same_weights(
    cpt_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cpt_config(arms={"hprompt": HPROMPT})
    train(config, tmp_path / "whole", progress=False)
    terms = Objective.terms

    def fail(self: Objective, batch: Any, step: int) -> dict[str, Tensor]:
        if step == 3 and (tmp_path / "stopped/runs/hprompt-given-0/stage-01").exists():
            raise KeyboardInterrupt
        return terms(self, batch, step)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "terms", fail)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "stopped", progress=False)
    left = tmp_path / "stopped/runs/hprompt-given-0"
    assert [path.name for path in sorted(left.glob("st*"))] == ["stage-01", "state-02"]
    train(config, tmp_path / "stopped", progress=False)
    for stage in (1, 2, 3):
        place = f"runs/hprompt-given-0/stage-{stage:02d}"
        assert same(weights(tmp_path / "whole" / place), weights(tmp_path / "stopped" / place))
    whole, stopped = (
        [(r.stage, r.metric, r.depth, r.value) for r in read_records(tmp_path / name) if r.task == "train"]
        for name in ("whole/runs/hprompt-given-0", "stopped/runs/hprompt-given-0")
    )
    assert whole == stopped
    assert not list(left.glob("state-*"))


def test_every_baseline_trains_and_keeps_what_it_needs(cpt_config: Make, tmp_path: Path) -> None:
    arms: dict[str, Any] = {
        "sequential": {},
        "joint": {"domains": "joint"},
        "separate": {"domains": "separate"},
        "ewc": {"ewc": {"windows": 2, "weight": 1e4}},
        "lwf": {"agreement": {"prompt": "none", "weight": 50}},
        "replay": {"replay": {"windows": 4, "share": 0.9}},
        "pool": {"prompt": {"kind": "pool", "length": 1, "components": 3, "chosen": 2, "alone": True}},
        "adapter": {"adapter": {"rank": 2}},
    }
    out = train(cpt_config(arms=arms), tmp_path, progress=False)
    stages = {name: [weights(path) for path in sorted((out / f"runs/{name}-given-0").glob("stage-*"))] for name in arms}
    initial = load_file(out / "initial-0/model/model.safetensors")
    assert {name: len(found) for name, found in stages.items()} == {**dict.fromkeys(arms, 3), "joint": 1}
    assert same(stages["separate"][0], stages["sequential"][0])
    for name in ("ewc", "lwf", "replay"):  # nothing to keep in the first stage but what lwf's teacher says
        assert same(stages[name][0], stages["sequential"][0]) == (name != "lwf")
        assert not same(stages[name][1], stages["sequential"][1])
    assert all(torch.equal(stages["pool"][2][name], initial[name]) for name in initial)
    assert not torch.equal(stages["pool"][2]["keys"], stages["pool"][0]["keys"])
    assert stages["adapter"][2].keys() == initial.keys()
    moved = [name for name in initial if not torch.equal(stages["adapter"][2][name], initial[name])]
    assert moved
    for name in moved:  # in each stage a product of rank 2
        assert torch.linalg.matrix_rank(stages["adapter"][0][name] - initial[name], rtol=1e-3) <= 2


def test_numbers_on_time_memory_and_prompts_are_recorded(cpt_config: Make, tmp_path: Path) -> None:
    out = train(cpt_config(arms={"sequential": {}, "hprompt": HPROMPT}), tmp_path, progress=False)
    found = {
        name: {(r.stage, r.metric): r for r in read_records(out / f"runs/{name}-given-0") if r.task == "stage"}
        for name in ("sequential", "hprompt")
    }
    assert {metric for _, metric in found["sequential"]} == {"seconds", "peak_bytes", "extra_bytes"}
    more = {"state_norm", "disagreement_fixed", "disagreement_between"}
    assert {metric for _, metric in found["hprompt"]} == more | {"seconds", "peak_bytes", "extra_bytes"}
    assert [found["hprompt"][stage, "seconds"].domain for stage in (1, 2, 3)] == ["a", "b", "c"]
    assert found["sequential"][1, "extra_bytes"].value == 0
    # the teacher, the encoder and the makers of prompts: two models, components 3 x 2 x 16, mixer 16 x 3 + 3
    model = sum(x.numel() for x in load_file(out / "initial-0/model/model.safetensors").values())
    assert found["hprompt"][1, "extra_bytes"].value == 4 * (2 * model + 3 * 2 * 16 + 16 * 3 + 3)


def test_fisher_information_is_the_mean_squared_gradient_of_single_windows() -> None:
    """w x with loss (w x)^2 / 2 has the gradient w x^2."""
    layer = nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 3.0)
    losses = [lambda x=x: (layer.weight * x).square().sum() / 2 for x in (1.0, 2.0)]
    first = consolidate(layer, losses)
    assert first.fisher["weight"].item() == pytest.approx((3**2 + 12**2) / 2)
    second = consolidate(layer, losses, first)
    assert second.fisher["weight"].item() == pytest.approx(3**2 + 12**2)
    assert first.penalty(layer).item() == 0
    with torch.no_grad():
        layer.weight += 0.5
    assert first.penalty(layer).item() == pytest.approx(0.5 * 76.5 * 0.25)
    again = Consolidation.from_tensors(first.tensors())
    assert again.penalty(layer).item() == first.penalty(layer).item()


def test_a_learner_is_not_changed_by_copying_its_teacher(backbone: Backbone) -> None:
    from longspan.systems.hprompt_cpt.learner import teacher_of

    model = PromptedModel(backbone("roberta"), "zero")
    arm = ArmSettings.parse({"prompt": {"length": 1, "components": 2}, "agreement": {"teacher": "initial"}}, "test")
    teacher = teacher_of(arm, model, PromptedModel(backbone("roberta", hidden_act="relu")))
    assert teacher is not None
    assert teacher.policy == "zero"
    assert teacher.model.config.hidden_act == "relu"
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(weight.requires_grad for weight in copy.deepcopy(teacher).parameters())


def test_the_settings_of_a_run_are_kept_as_they_were_resolved(cpt_config: Make, tmp_path: Path) -> None:
    config = cpt_config(arms={"hprompt": HPROMPT}, pretrain={"steps": 1, "rows": 1})
    train(config, tmp_path, progress=False)
    assert CptConfig.from_yaml(tmp_path / "cpt.yaml") == config
