"""What is particular to a family stays as it is, and what is not supported is refused by name with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.gptj.modeling_gptj import GPTJFlashAttention2

import longspan as ls
from conftest import make_model
from longspan.errors import FamilyError
from longspan.surgery.families import FAMILIES
from surgery_methods import TARGET, ids, logits

Maker = Callable[[str], PreTrainedModel]
EXPERTS = ("mixtral", "qwen3_moe")
"""Families of which some experts see no token."""


@pytest.mark.parametrize(
    ("model_type", "settings", "says"),
    [
        ("gpt2", {"n_embd": 8, "n_layer": 1, "n_head": 1}, "no rotary position embedding"),
        ("opt", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}, "no rotary position embedding"),
        ("bloom", {"hidden_size": 8, "n_layer": 1, "n_head": 1}, "no rotary position embedding"),
        ("deepseek_v2", {}, "multi-head latent attention"),
        ("deepseek_v3", {}, "multi-head latent attention"),
        ("gemma3", {}, r"beside other parts; load its language model \(gemma3_text\) alone"),
        ("codegen", {}, "choose from llama, mistral, mixtral"),
        ("olmo", {}, "choose from llama, mistral, mixtral"),
    ],
)
def test_other_families_are_refused_by_name_with_the_reason(model_type: str, settings: dict, says: str) -> None:
    with torch.device("meta"):
        other = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    with pytest.raises(FamilyError, match=f"'{model_type}' is not supported: .*{says}"):
        ls.extend(other, "yarn", target_length=1 << 20)


def test_other_heads_are_refused_by_name(tiny_model: Maker) -> None:
    head = LlamaForSequenceClassification(tiny_model("llama").config)
    with pytest.raises(FamilyError, match="load it as LlamaForCausalLM"):
        ls.extend(head, "yarn", target_length=256)


def test_a_lost_rope_theta_is_noticed(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    model.config.rope_parameters = {"rope_type": "yarn", "factor": 4.0}
    with pytest.raises(FamilyError, match="no rope_theta"):
        ls.extend(model, "coca")


@pytest.mark.parametrize("kept", ["sliding_attention", "full_attention"])
def test_lost_parts_of_nested_rope_parameters_are_noticed(kept: str, tiny_model: Maker) -> None:
    model = tiny_model("gemma3_text")
    model.config.rope_parameters = {kept: model.config.rope_parameters[kept]}
    lost = {"sliding_attention": "full_attention", "full_attention": "sliding_attention"}[kept]
    with pytest.raises(FamilyError, match=rf"no rope_parameters\['{lost}'\]"):
        ls.extend(model, "coca")


def test_flat_rope_parameters_where_they_must_be_nested_are_noticed(tiny_model: Maker) -> None:
    model = tiny_model("gemma3_text")
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4}
    with pytest.raises(FamilyError, match=r"no rope_parameters\['sliding_attention'\]"):
        ls.extend(model, "coca")


@pytest.mark.parametrize("lost", [None, {}])
def test_rope_parameters_that_are_missing_altogether_are_noticed(lost: dict | None, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    model.config.rope_parameters = lost
    with pytest.raises(FamilyError, match="no rope_theta"):
        ls.extend(model, "coca")


WINDOWED: dict[str, dict] = {
    "mistral": {"sliding_window": 24},
    "mixtral": {"sliding_window": 24},
    "qwen2": {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0},
    "gemma2": {"layer_types": ["sliding_attention"] * 2},
    "gemma3_text": {"layer_types": ["sliding_attention"] * 2},
    "phi3": {"sliding_window": 24},
}


@pytest.mark.parametrize("family", WINDOWED)
@pytest.mark.parametrize("methods_text", ["coca", "alibi", "yarn", "dynamic_ntk(factor=4)"])
def test_a_sliding_window_stays_what_it_was(family: str, methods_text: str) -> None:
    """Through two layers that see 24 tokens each, a token reaches 46 tokens further and no more."""
    model = make_model(family, **WINDOWED[family])
    if family == "gemma3_text" and methods_text not in ("coca", "alibi"):
        with pytest.raises(FamilyError, match="every layer of the model slides"):
            ls.extend(model, methods_text, target_length=TARGET)
        return
    with ls.extend(model, methods_text, target_length=TARGET):
        tokens = ids(rows=1)
        other = tokens.clone()
        other[:, 10] = (other[:, 10] + 1) % 128
        moved = (logits(model, tokens) - logits(model, other)).abs().amax(-1)[0].nonzero().flatten().tolist()
        assert moved[0] == 10
        assert 10 + 23 < moved[-1] <= 10 + 46


def test_gemma_3_keeps_the_frequencies_of_its_local_layers() -> None:
    """They never see beyond their window; features and biases act there too, over the base of these layers."""
    model = make_model("gemma3_text")
    patch = ls.extend(model, "yarn", target_length=TARGET)
    rotary, places = model.model.rotary_emb, torch.arange(100)[None]
    x = torch.zeros(1, 100, 32)
    local, everywhere = rotary(x, places, "sliding_attention"), rotary(x, places, "full_attention")
    plain = Gemma3RotaryEmbedding(make_model("gemma3_text").config)
    cos, _ = plain(x, places, "sliding_attention")
    assert torch.allclose(local.cos, cos[..., :4], atol=1e-5)
    assert local.tau is None
    assert torch.allclose(everywhere.omega.float(), rotary.inv_freq)
    assert "local layers keep theirs" in str(patch.plan)
    patch.undo()
    with ls.extend(model, "alibi"):
        assert not rotary_tables(model, places, "sliding_attention").any()
        assert "model.layers.0.self_attn.bias <- Alibi" in str(ls.plan(make_model("gemma3_text"), "alibi"))


def rotary_tables(model: PreTrainedModel, places: torch.Tensor, layer_type: str) -> torch.Tensor:
    return model.model.rotary_emb(torch.zeros(1, 1), places, layer_type).sin


def test_gpt_j_is_refused_under_kernels_that_are_not_its_own(tiny_model: Maker) -> None:
    model = tiny_model("gptj")
    model.transformer.h[0].attn.__class__ = GPTJFlashAttention2
    with pytest.raises(FamilyError, match=r"transformer\.h\.0\.attn is a GPTJFlashAttention2, which is not patched"):
        ls.extend(model, "coca")
    model = tiny_model("gptj")
    with ls.extend(model, "coca"):
        model.config._attn_implementation = "flash_attention_2"
        with pytest.raises(FamilyError, match="its own eager function only"):
            model.transformer.h[0].attn(torch.zeros(1, 1, 32), position_ids=torch.zeros(1, 1, dtype=torch.long))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in EXPERTS])
def test_gradients_reach_every_weight_of_every_family(family: str, tiny_model: Maker) -> None:
    model = tiny_model(family)
    for methods in ("coca+dynamic_ntk(factor=4)", "pope+yarn"):
        with ls.extend(model, methods, target_length=TARGET):
            model.zero_grad()
            model(ids(), labels=ids(), use_cache=False).loss.backward()
            lacking = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
            assert lacking == []


@pytest.mark.parametrize("family", EXPERTS)
def test_gradients_reach_the_attention_of_models_with_experts(family: str, tiny_model: Maker) -> None:
    model = tiny_model(family)
    with ls.extend(model, "pope+yarn", target_length=TARGET):
        model(ids(), labels=ids(), use_cache=False).loss.backward()
        assert all(p.grad.abs().max() > 0 for name, p in model.named_parameters() if "self_attn" in name)
