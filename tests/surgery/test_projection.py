"""The key projection of half width: the same function from half the rows, in every family that has one of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import longspan as ls
from conftest import make_model
from longspan.errors import FamilyError, MethodError
from longspan.surgery import current_methods
from longspan.surgery.projection import HalfKeys
from longspan.train.lora import add_lora
from longspan.train.lora_settings import LoraSettings
from longspan.train.sizes import build_model
from surgery_methods import TARGET, ids, logits
from tolerances import LOGITS, distance, logit_distance

Maker = Callable[[str], PreTrainedModel]
HALF = "coca(projection='half')"
TAKEN = ("llama", "mistral", "mixtral", "qwen2", "gemma2", "granite", "gptj")
"""Families whose keys have a linear map of their own with nothing behind it; GPT-J rotates in part and interleaved."""


def attention_of(model: PreTrainedModel) -> Any:
    return next(module for module in model.modules() if hasattr(module, "k_proj"))


def with_averaged_rows(model: PreTrainedModel, rotary_dim: int, head_dim: int, interleaved: bool) -> PreTrainedModel:
    """A copy in which both rows of each pair are their mean, by a loop over the rows."""
    model, half = copy.deepcopy(model), rotary_dim // 2
    with torch.no_grad():
        for module in model.modules():
            if not hasattr(module, "k_proj"):
                continue
            for rows in module.k_proj.parameters():
                for start in range(0, len(rows), head_dim):
                    for pair in range(half):
                        first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
                        mean = (rows[start + first] + rows[start + second]) / 2
                        rows[start + first] = rows[start + second] = mean
    return model


@pytest.mark.parametrize("family", TAKEN)
def test_it_equals_the_full_width_with_averaged_weights(family: str, tiny_model: Maker) -> None:
    plain = tiny_model(family)
    averaged = with_averaged_rows(plain, 4 if family == "gptj" else 8, 8, family == "gptj")
    full = ls.extend(averaged, "coca+yarn", target_length=TARGET).model
    half = ls.extend(plain, f"{HALF}+yarn", target_length=TARGET).model
    assert logit_distance(logits(half, ids()), logits(full, ids())) < 1e-5
    assert {type(module.k_proj) for module in half.modules() if hasattr(module, "k_proj")} == {HalfKeys}


def test_one_layer_agrees_in_float64_with_its_gradients() -> None:
    plain = make_model("qwen2", num_hidden_layers=1, num_attention_heads=6, num_key_value_heads=3, hidden_size=48)
    plain = plain.double()
    full = ls.extend(with_averaged_rows(plain, 8, 8, False), "coca").model
    half = ls.extend(copy.deepcopy(plain), HALF).model
    hidden = torch.randn(2, 13, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs = []
    for model in (full, half):
        rotation = model.base_model.rotary_emb(hidden, torch.arange(13)[None].expand(2, -1))
        outputs.append(attention_of(model)(hidden, position_embeddings=rotation, attention_mask=None)[0])
        outputs[-1].sin().sum().backward()
    assert distance(outputs[1], outputs[0]) < 1e-12
    for name in ("weight", "bias"):
        wide = getattr(attention_of(full).k_proj, name).grad.unflatten(0, (3, 2, 4))
        narrow = getattr(attention_of(half).k_proj.t_proj, name).grad
        assert distance(narrow, wide.sum(1).flatten(0, 1)) < 1e-12


def test_the_number_of_parameters_is_the_one_computed_by_hand() -> None:
    def count(methods: str, **settings: int) -> int:
        return sum(weight.numel() for weight in ls.extend(make_model("qwen2", **settings), methods).model.parameters())

    # two layers; of 2 key heads 8 wide, 4 rows a head go, each with 32 weights and a bias
    assert count("coca") - count(HALF) == 2 * (2 * 4) * (32 + 1)
    # of GPT-J's four key heads 8 wide, 4 elements rotate: 2 rows a head go, without a bias
    gptj = [ls.extend(make_model("gptj"), methods).model for methods in ("coca", HALF)]
    assert gptj[0].num_parameters() - gptj[1].num_parameters() == 2 * (4 * 2) * 32


def test_a_new_model_starts_from_the_same_function_and_the_spread_that_leaves_t_as_it_was() -> None:
    full, half = (build_model("llama", "1m", 512, 64, 1e4, methods, seed=0) for methods in ("coca", HALF))
    tokens = ids(length=40)
    assert logit_distance(logits(half, tokens), logits(full, tokens)) < LOGITS
    weight = attention_of(half).k_proj.t_proj.weight
    assert weight.shape == (64, 128)
    assert weight.std().item() == pytest.approx(128**-0.5 / 2**0.5, rel=0.03)


def test_undo_restores_every_bit(tiny_model: Maker) -> None:
    model = tiny_model("gptj")
    before, said = {name: value.clone() for name, value in model.state_dict().items()}, logits(model, ids(length=60))
    ls.extend(model, HALF).undo()
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits(model, ids(length=60)), said)


def test_saved_loaded_and_extended_further_it_stays_as_it_was_trained(tiny_model: Maker, tmp_path: Path) -> None:
    model = ls.extend(tiny_model("llama"), HALF).model
    with torch.no_grad():
        attention_of(model).k_proj.t_proj.weight.mul_(1.5)  # as training would
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert current_methods(loaded) == (ls.Coca(projection="half"),)
    assert torch.equal(logits(loaded, ids(length=60)), logits(model, ids(length=60)))
    patch = ls.extend(loaded, "dynamic_ntk", target_length=TARGET)
    assert torch.equal(logits(loaded, ids(length=60)), logits(model, ids(length=60)))  # inside the trained window
    patch.undo()
    assert torch.equal(logits(loaded, ids(length=60)), logits(model, ids(length=60)))


@torch.no_grad()
def test_it_generates_from_a_collinear_cache_what_it_generates_without_any(tiny_model: Maker) -> None:
    model = ls.extend(tiny_model("llama"), f"{HALF}+dynamic_ntk(factor=4.0)", target_length=TARGET).model
    prompt = ids(length=50)

    def generated(**more: Any) -> Tensor:
        return model.generate(prompt, max_new_tokens=30, min_new_tokens=30, do_sample=False, **more)

    cache = ls.CollinearCache(model.config)
    assert torch.equal(generated(past_key_values=cache), generated(use_cache=False))
    assert cache.layers[0].keys.shape[-1] == 8 // 2 + 3  # t, and the columns of its position


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_the_doctor_has_no_alarm(family: str, tiny_model: Maker) -> None:
    model = ls.extend(tiny_model(family), f"{HALF}+yarn", target_length=TARGET).model
    assert [f"{check.name}: {check.detail}" for check in ls.doctor(model).failed] == []


def test_adapters_go_onto_the_half(tiny_model: Maker) -> None:
    adapted = add_lora(ls.extend(tiny_model("llama"), HALF).model, LoraSettings(rank=3), seed=0)
    shapes = {name: tuple(weight.shape) for name, weight in adapted.named_parameters() if "layers.0" in name}
    assert shapes["base_model.model.model.layers.0.self_attn.k_proj.t_proj.lora_B.default.weight"] == (8, 3)
    adapted(ids(length=20)).logits.sum().backward()


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gpt_neox", "query_key_value makes keys together with queries and values"),
        ("phi3", "qkv_proj makes keys together"),
        ("qwen3", "k_norm follows the key projection"),
        ("stablelm", "k_layernorm follows"),
        ("cohere", "k_norm follows"),
    ],
)
def test_a_family_that_cannot_have_it_says_why_and_stays_as_it_is(family: str, reason: str, tiny_model: Maker) -> None:
    model = tiny_model(family)
    before = logits(model, ids())
    with pytest.raises(FamilyError, match=f"{reason}.*: take coca with projection='full'"):
        ls.extend(model, HALF)
    assert torch.equal(logits(model, ids()), before)


def test_a_projection_that_is_not_linear_and_a_start_of_full_width_are_refused(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    with pytest.raises(MethodError, match="start 'random' sets a key projection of full width"):
        ls.convert(model, HALF, start="random")
    attention_of(model).k_proj = nn.Sequential(attention_of(model).k_proj)
    with pytest.raises(FamilyError, match=r"self_attn\.k_proj is a Sequential, which cannot be halved"):
        ls.extend(model, HALF)
