"""The three losses against numbers by hand and transformers' own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from longspan.systems.hprompt_cpt.arm_settings import ArmSettings
from longspan.systems.hprompt_cpt.learner import Learner, Objective, teacher_of
from longspan.systems.hprompt_cpt.losses import agreement, disagreement, language_loss
from longspan.systems.hprompt_cpt.prompted import PromptedModel
from longspan.systems.hprompt_cpt.prompts import PromptSource
from longspan.systems.hprompt_cpt.windows import Batch

Backbone = Callable[..., PreTrainedModel]
PROMPT = {"length": 3, "components": 4}


def objective(model: PreTrainedModel, arm: dict[str, object], *, causal: bool = False) -> Objective:
    """An objective as at the start of a stage: the teacher is the model itself."""
    settings = ArmSettings.parse(arm, "test")
    source = None if settings.prompt is None else PromptSource(settings.prompt, model, 0)
    learner = Learner(PromptedModel(copy.deepcopy(model)), source, causal=causal)
    return Objective(learner, settings, teacher_of(settings, learner.model, learner.model), None, 0.2, 0)


@pytest.mark.parametrize(("kind", "causal"), [("roberta", False), ("llama", True)])
def test_the_language_loss_is_that_of_transformers(backbone: Backbone, batch: Batch, kind: str, causal: bool) -> None:
    model = backbone(kind)
    own = model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), labels=batch.labels).loss
    read = PromptedModel(model)(batch.input_ids, batch.mask)
    assert torch.equal(language_loss(read.logits, batch.labels, causal=causal), own)


def test_disagreement_is_0_for_orthogonal_and_1_for_identical_or_opposite_states() -> None:
    u = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert disagreement(u, torch.tensor([[2.0, -1.0], [0.0, 7.0]])).item() == pytest.approx(0)
    assert disagreement(u, 5 * u).item() == pytest.approx(1)
    assert disagreement(u, -u).item() == pytest.approx(1)
    # 60 and 90 degrees: cos^2 = 1/4 and 0
    half = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert disagreement(half, torch.tensor([[1.0, 3**0.5], [0.0, 1.0]])).item() == pytest.approx(0.125)


def test_disagreement_gives_the_random_states_no_gradient() -> None:
    prompted, random = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    disagreement(prompted, random).backward()
    assert prompted.grad is not None
    assert random.grad is None


def test_agreement_is_the_mean_divergence_of_the_labelled_tokens_alone() -> None:
    """P = (3/4, 1/4), Q = (1/2, 1/2) at one labelled place, anything at the other."""
    wanted, logits = torch.tensor([[[3.0, 1.0], [9.0, 1.0]]]).log(), torch.zeros(1, 2, 2)
    by_hand = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    assert torch.allclose(agreement(wanted, logits, torch.tensor([[1, -100]]), causal=False), by_hand)
    assert torch.allclose(agreement(wanted, logits, torch.tensor([[-100, 1]]), causal=True), by_hand)


@pytest.mark.parametrize("on", ["logits", "states"])
@pytest.mark.parametrize(("kind", "causal"), [("roberta", False), ("llama", True)])
def test_a_student_equal_to_its_teacher_agrees_and_is_not_moved(
    backbone: Backbone, batch: Batch, kind: str, causal: bool, on: str
) -> None:
    found = objective(backbone(kind), {"prompt": PROMPT, "agreement": {"on": on}}, causal=causal)
    assert found.teacher is not None
    loss = found.terms(batch, 0)["agreement"]
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    gradients = [weight.grad.abs().max() for weight in found.learner.parameters() if weight.grad is not None]
    assert max(gradients) < 1e-6
    assert all(weight.grad is None for weight in found.teacher.parameters())


def test_the_teacher_gets_no_gradient_when_the_student_has_moved(backbone: Backbone, batch: Batch) -> None:
    found = objective(backbone("roberta"), {"prompt": PROMPT, "agreement": {}, "disagreement": {}})
    with torch.no_grad():
        for weight in found.learner.model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    terms = found.terms(batch, 0)
    assert terms["agreement"] > 0.01
    sum(terms.values()).backward()
    assert found.teacher is not None
    assert all(weight.grad is None for weight in found.teacher.parameters())
    assert found.learner.source is not None
    assert all(weight.grad is None for weight in found.learner.source.encoder.parameters())
    assert all(weight.grad is not None for weight in found.learner.source.maker.parameters())


def test_without_random_slots_agreement_is_plain_distillation(backbone: Backbone, batch: Batch) -> None:
    found = objective(backbone("roberta"), {"agreement": {"prompt": "none", "weight": 2.0}})
    with torch.no_grad():
        for weight in found.learner.model.parameters():
            weight += 0.05 * torch.randn_like(weight)
        own = {"input_ids": batch.input_ids, "attention_mask": batch.mask.long()}
        chosen = batch.labels != -100
        p = backbone("roberta")(**own).logits[chosen].softmax(-1)
        q = found.learner.model.model(**own).logits[chosen].softmax(-1)
    by_definition = 2.0 * (p * (p / q).log()).sum(-1).mean()
    assert found.terms(batch, 0)["agreement"].item() == pytest.approx(by_definition.item(), rel=1e-4)


def test_random_prompts_follow_from_the_step_and_are_as_large_as_words(backbone: Backbone) -> None:
    from systems.hprompt_cpt.conftest import make_batch

    found, one = objective(backbone("roberta"), {"prompt": {"length": 20, "components": 2}}), make_batch(2)
    first, again, other = (found.random(one, seed) for seed in (1, 1, 2))
    assert first is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[0], first[1])  # the same for all rows
    assert first[0].std().item() == pytest.approx(0.2, rel=0.15)


def test_a_causal_prompt_is_made_of_tokens_that_are_not_learned(backbone: Backbone, batch: Batch) -> None:
    """Tokens behind the first quarter change neither the prompt nor, for the places before them, the logits."""
    found = objective(backbone("llama"), {"prompt": PROMPT}, causal=True)
    context, kept = found.learner.in_training(batch)
    assert context.sum(1).tolist() == [3, 3, 3]
    assert (kept.labels[:, :3] == -100).all()
    assert torch.equal(kept.labels[:, 3:], batch.labels[:, 3:])
    changed = batch.input_ids.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 40
    source, model = found.learner.source, found.learner.model
    assert source is not None
    one, two = (source(ids, context).values for ids in (batch.input_ids, changed))
    assert torch.equal(one, two)
    before, after = (model(ids, batch.mask, one).logits[:, :8] for ids in (batch.input_ids, changed))
    assert torch.allclose(before, after, atol=1e-6)
