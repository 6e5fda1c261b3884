"""What t of CoCA begins as: the weights that are there, new ones, or those that come closest to the old scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import longspan
from conftest import VOCAB_SIZE, make_model
from longspan import surgery
from longspan.errors import DataError, FamilyError, MethodError
from longspan.surgery.fit import Scores, fit_keys

Tiny = Callable[[str], PreTrainedModel]
WITHOUT_NORM = ("llama", "mistral", "mixtral", "qwen2", "gemma2", "phi3", "gpt_neox", "granite", "gptj")
WITH_NORM = ("qwen3", "qwen3_moe", "gemma3_text", "stablelm", "olmo2", "cohere")


def text(windows: int = 6, tokens: int = 24) -> Tensor:
    return torch.randint(3, VOCAB_SIZE, (windows, tokens), generator=torch.Generator().manual_seed(1))


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def attention_module(model: PreTrainedModel) -> Any:
    return next(module for module in model.modules() if hasattr(module, surgery.attention.ATTRIBUTE))


def test_the_mean_leaves_every_weight_and_equals_extend(tiny_model: Tiny) -> None:
    model, plain = tiny_model("llama"), tiny_model("llama")
    before = weights(model)
    longspan.convert(model, "coca")
    assert not changed(before, weights(model))
    longspan.extend(plain, "coca")
    assert torch.equal(model(text()).logits, plain(text()).logits)


@pytest.mark.parametrize("start", ["random", "fit"])
def test_only_key_projections_change_and_undo_restores_every_bit(tiny_model: Tiny, start: surgery.Start) -> None:
    model = tiny_model("llama")
    before, said = weights(model), model(text()).logits
    patch = longspan.convert(model, "coca+pi", start=start, ids=text() if start == "fit" else None, target_length=128)
    assert changed(before, weights(model)) == {f"model.layers.{n}.self_attn.k_proj.weight" for n in (0, 1)}
    assert patch.plan.methods == (longspan.Coca(), longspan.Pi())
    patch.undo()
    assert not changed(before, weights(model))
    assert torch.equal(model(text()).logits, said)


def test_random_keys_have_the_spread_of_a_new_model_and_follow_the_seed() -> None:
    models = [make_model("qwen2", hidden_size=256, initializer_range=0.05) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        longspan.convert(model, "coca", start="random", seed=seed)
    first, same, other = (model.model.layers[0].self_attn.k_proj for model in models)
    assert first.weight.std().item() == pytest.approx(0.05, rel=0.03)
    assert not first.bias.any()
    assert torch.equal(first.weight, same.weight)
    assert not torch.equal(first.weight, other.weight)


@pytest.mark.parametrize("family", ["phi3", "gpt_neox"])
def test_in_a_fused_projection_only_the_rows_of_keys_that_rotate_change(tiny_model: Tiny, family: str) -> None:
    model = tiny_model(family)
    module = next(m for m in model.modules() if hasattr(m, "qkv_proj") or hasattr(m, "query_key_value"))
    projection = module.qkv_proj if family == "phi3" else module.query_key_value
    before = projection.weight.detach().clone()
    longspan.convert(model, "coca", start="random")
    rows = (projection.weight != before).any(-1).nonzero().flatten().tolist()
    # Phi-3: 4 query heads of 8, then 2 key heads; GPT-NeoX: heads of query, key and value, half of each rotating
    expected = range(32, 48) if family == "phi3" else [24 * head + 8 + place for head in range(4) for place in range(4)]
    assert rows == list(expected)


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f in ("llama", "gpt_neox") else pytest.mark.slow) for f in WITHOUT_NORM]
)
def test_fitted_t_is_the_same_in_both_halves_and_brings_scores_closer(tiny_model: Tiny, family: str) -> None:
    errors = {}
    for start in ("mean", "random", "fit"):
        model = tiny_model(family)
        wanted = attentions(model)
        longspan.convert(model, "coca", start=start, ids=text() if start == "fit" else None)  # type: ignore[arg-type]
        found = attentions(model)
        errors[start] = float((wanted * (wanted.clamp_min(1e-9).log() - found.clamp_min(1e-9).log())).sum(-1).mean())
    assert errors["fit"] < min(errors["mean"], errors["random"])


def attentions(model: PreTrainedModel) -> Tensor:
    """Attention of the first layer, which reads the same in every arm: `B H T T`."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model(text(), output_attentions=True, use_cache=False).attentions[0]


@pytest.mark.parametrize("family", WITH_NORM)
def test_keys_behind_a_norm_are_refused_with_the_reason(tiny_model: Tiny, family: str) -> None:
    model = tiny_model(family)
    before = weights(model)
    with pytest.raises(FamilyError, match="norm follows the key projection"):
        longspan.convert(model, "coca", start="fit", ids=text())
    assert not changed(before, weights(model))
    assert surgery.current_methods(model) == ()
    longspan.convert(model, "coca", start="random")


@pytest.mark.parametrize("query_heads", [2, 4])
def test_a_map_that_gave_the_scores_is_found(query_heads: int) -> None:
    """Scores are made by the literal formula from a known map, so that nothing is left to fit."""
    draw = torch.Generator().manual_seed(0)
    pairs, width, tokens, key_heads = 2, 5, 12, 2
    omega = torch.tensor([1.0, 0.1], dtype=torch.float64)
    maps = torch.randn(key_heads, pairs, width, generator=draw, dtype=torch.float64)
    angles = torch.arange(tokens)[:, None] * omega

    def rotate(x: Tensor) -> Tensor:
        return torch.cat((x * angles.cos(), x * angles.sin()), dim=-1)

    windows = []
    for _ in range(8):
        x = torch.randn(tokens, width, generator=draw, dtype=torch.float64)
        squares = torch.rand(query_heads, tokens, pairs, generator=draw, dtype=torch.float64)
        targets = torch.zeros(query_heads, tokens, tokens, dtype=torch.float64)
        for h in range(query_heads):
            t = x @ maps[h * key_heads // query_heads].mT
            for m in range(tokens):
                for n in range(tokens):
                    targets[h, m, n] = sum(t[n, j] * squares[h, m, j] * math.cos((m - n) * omega[j]) for j in range(2))
        offsets = torch.randn(query_heads, tokens, 1, generator=draw, dtype=torch.float64)  # softmax does not see them
        seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        windows.append(Scores(x, rotate(squares[None])[0], targets + offsets, seen))
    found = fit_keys(windows, key_heads, pairs, rotate, gate=lambda t: t)
    assert torch.allclose(found, maps, atol=0.01)


@pytest.mark.parametrize(
    ("methods", "start", "with_text", "error", "message"),
    [
        ("yarn", "fit", True, MethodError, "a start is for CoCA"),
        ("coca", "warm", False, MethodError, "unknown start 'warm': write mean, random, fit"),
        ("coca", "fit", False, DataError, "needs text"),
        ("coca", "mean", True, DataError, "no effect"),
        ("coca(form='slack')", "fit", True, MethodError, "only the scores of coca"),
    ],
)
def test_what_cannot_be_started_so_is_refused(
    tiny_model: Tiny, methods: str, start: Any, with_text: bool, error: type[Exception], message: str
) -> None:
    model = tiny_model("llama")
    before = weights(model)
    with pytest.raises(error, match=message):
        longspan.convert(model, methods, start=start, ids=text() if with_text else None, target_length=128)
    assert not changed(before, weights(model))
    assert surgery.current_methods(model) == ()


def test_a_model_that_is_coca_already_is_not_started_again(tiny_model: Tiny) -> None:
    model = tiny_model("llama")
    longspan.convert(model, "coca")
    with pytest.raises(MethodError, match="a start is for CoCA, which these methods do not add"):
        longspan.convert(model, "pi", start="random", target_length=128)
