"""Hypernetwork, pool, and where their soft tokens stand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from longspan.errors import ConfigError
from longspan.systems.hprompt_cpt.arm_settings import PromptSettings
from longspan.systems.hprompt_cpt.positions import check_fit, prompted_positions, window_of
from longspan.systems.hprompt_cpt.prompted import PromptedModel
from longspan.systems.hprompt_cpt.prompts import Hypernetwork, PromptPool, PromptSource
from longspan.systems.hprompt_cpt.windows import Batch

Backbone = Callable[..., PreTrainedModel]
POLICIES = ("shift", "zero", "negative", "last")


def settings(**values: object) -> PromptSettings:
    return PromptSettings.parse({"length": 3, "components": 5, **values}, "test")


def test_swapping_components_with_their_weights_leaves_the_prompt() -> None:
    maker, context = Hypernetwork(settings(), 8, 0.2), torch.randn(4, 8)
    before = maker(context).values
    order = torch.tensor([0, 3, 2, 1, 4])
    with torch.no_grad():
        maker.components.copy_(maker.components[order])
        maker.mixer.weight.copy_(maker.mixer.weight[order])
        maker.mixer.bias.copy_(maker.mixer.bias[order])
    assert torch.allclose(maker(context).values, before, atol=1e-6)
    with torch.no_grad():
        maker.components.copy_(maker.components[order])  # back, and the weights not
    assert not torch.allclose(maker(context).values, before, atol=1e-3)


def test_softmax_weights_sum_to_1_and_linear_ones_are_free() -> None:
    context = torch.randn(6, 8)
    assert torch.allclose(Hypernetwork(settings(), 8, 0.2).weights(context).sum(-1), torch.ones(6))
    linear = Hypernetwork(settings(weights="linear"), 8, 0.2)
    assert torch.equal(linear.weights(context), context @ linear.mixer.weight.T + linear.mixer.bias)


def test_a_prompt_is_the_mixture_by_definition() -> None:
    maker, context = Hypernetwork(settings(), 8, 0.2), torch.randn(2, 8)
    alpha, prompt = maker.weights(context), maker(context).values
    for row in range(2):
        assert torch.allclose(prompt[row], sum(alpha[row, m] * maker.components[m] for m in range(5)), atol=1e-6)


def test_the_pool_takes_the_prompts_of_the_nearest_keys() -> None:
    pool = PromptPool(settings(kind="pool", chosen=2), 4, 0.2)
    with torch.no_grad():
        pool.keys.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [-1, 0, 0, 0]]))
    found = pool(torch.tensor([[0.0, 3.0, 4.0, 0.0]]))  # cosines 0, .6, .8, 0, 0
    assert torch.equal(found.values[0], torch.cat([pool.prompts[2], pool.prompts[1]]))
    assert found.loss is not None
    assert found.loss.item() == pytest.approx(1 - 0.7)


@pytest.mark.parametrize("encoder", ["initial", "embeddings"])
def test_the_encoder_ignores_padding_and_never_learns(backbone: Backbone, batch: Batch, encoder: str) -> None:
    source = PromptSource(settings(encoder=encoder), backbone("roberta"), 0).train()
    padded, mask = batch.input_ids.clone(), batch.mask.clone()
    mask[:, 9:] = False
    padded[:, 9:] = 1
    short = source(batch.input_ids[:, :9], batch.mask[:, :9]).values
    assert torch.allclose(source(padded, mask).values, short, atol=1e-5)
    short.sum().backward()
    assert all(weight.grad is None for weight in source.encoder.parameters())


def test_positions_are_those_of_the_table() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    by_hand = {
        "shift": [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]],
        "zero": [[0, 0, 0, 1, 2], [0, 0, 0, 1, 2]],
        "negative": [[-2, -1, 0, 1, 2], [-2, -1, 0, 1, 2]],
        "last": [[3, 4, 0, 1, 2], [2, 3, 0, 1, 2]],
    }
    for policy, expected in by_hand.items():
        assert prompted_positions(mask, 2, policy).tolist() == expected  # type: ignore[arg-type]
    assert prompted_positions(mask, 2, "zero", first=2).tolist()[0] == [2, 2, 2, 3, 4]


@pytest.mark.parametrize("kind", ["modernbert", "llama"])
def test_under_rope_shift_and_negative_are_one_and_zero_is_not(backbone: Backbone, batch: Batch, kind: str) -> None:
    model, prompt = backbone(kind), 0.2 * torch.randn(3, 4, 16)
    found = {policy: PromptedModel(model, policy)(batch.input_ids, batch.mask, prompt).logits for policy in POLICIES}
    assert torch.allclose(found["shift"], found["negative"], atol=1e-5)
    assert not torch.allclose(found["shift"], found["zero"], atol=1e-3)
    assert not torch.allclose(found["shift"], found["last"], atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("roberta", "shift"),
        ("roberta", "zero"),
        *((kind, policy) for kind in ("modernbert", "llama") for policy in POLICIES),
    ],
)
def test_every_token_of_the_text_sees_the_whole_prompt(
    backbone: Backbone, batch: Batch, kind: str, policy: str
) -> None:
    """A jump of positions must not be taken for the border of two documents."""
    model = PromptedModel(backbone(kind), policy)  # type: ignore[arg-type]
    prompt = 0.2 * torch.randn(1, 4, 16)
    for soft in range(4):
        other = prompt.clone()
        other[:, soft] = torch.randn(16)  # a constant would be lost in the norms
        one, two = (model(batch.input_ids[:1], batch.mask[:1], p).logits for p in (prompt, other))
        assert ((one - two).abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("kind", ["roberta", "modernbert", "llama"])
@pytest.mark.parametrize("policy", ["shift", "zero", "last"])
def test_padding_behind_the_text_changes_nothing(backbone: Backbone, batch: Batch, kind: str, policy: str) -> None:
    model, prompt = PromptedModel(backbone(kind), policy), 0.2 * torch.randn(3, 4, 16)  # type: ignore[arg-type]
    whole = model(batch.input_ids[:, :9], batch.mask[:, :9], prompt)
    mask = batch.mask.clone()
    mask[:, 9:] = False
    padded = model(batch.input_ids.masked_fill(~mask, 1), mask, prompt)
    assert torch.allclose(padded.logits[:, :9], whole.logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["roberta", "modernbert", "llama"])
def test_no_soft_token_is_the_model_itself_bit_for_bit(backbone: Backbone, batch: Batch, kind: str) -> None:
    model = backbone(kind)
    own = model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), output_hidden_states=True)
    for prompt in (None, torch.empty(3, 0, 16)):
        read = PromptedModel(model)(batch.input_ids, batch.mask, prompt)
        assert torch.equal(read.logits, own.logits)
        assert torch.equal(read.states, own.hidden_states[-1])
    assert torch.equal(PromptedModel(model).states(batch.input_ids, batch.mask), own.hidden_states[-1])


def test_prompts_that_do_not_fit_are_refused_in_one_line(backbone: Backbone) -> None:
    roberta, llama = backbone("roberta"), backbone("llama")
    assert window_of(roberta) == window_of(llama) == 24
    check_fit(roberta, 20, 4, "shift", "x")
    check_fit(roberta, 24, 4, "zero", "x")
    with pytest.raises(ConfigError, match="30 soft tokens are longer than the model's window of 24"):
        check_fit(roberta, 12, 30, "zero", "x")
    with pytest.raises(ConfigError, match="4 soft tokens and a text of 21 need 25 positions"):
        check_fit(llama, 21, 4, "last", "x")
    with pytest.raises(ConfigError, match="negative needs rotary positions"):
        check_fit(roberta, 12, 4, "negative", "x")
