from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracle import CASES, relative, transformers_table
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

import longspan as ls
from longspan.equation import Window, fill_slots
from longspan.errors import MethodError
from longspan.methods.frequency.long_rope import LongRope
from longspan.methods.frequency.ntk import Ntk
from longspan.methods.frequency.pi import Pi
from longspan.methods.frequency.rope import Rope
from longspan.reference import reference_attention
from longspan.registry import format_methods, methods_from_json, methods_to_json, parse_methods
from longspan.rotation import rotation_tables
from longspan.surgery import current_methods
from tolerances import LOGITS, distance, logit_distance

Maker = Callable[[str], PreTrainedModel]
ORIGINAL, TARGET = 64, 256
SHORT, LONG = (1.0, 1.1, 1.1, 1.5), (1.0, 1.7, 3.1, 4.9)
"""Factors for heads of 4 pairs."""


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 128, (rows, length), generator=torch.Generator().manual_seed(0))


def drawn_factors(pairs: int, highest: float, seed: int) -> list[float]:
    return torch.empty(pairs).uniform_(1, highest, generator=torch.Generator().manual_seed(seed)).sort().values.tolist()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("longer", [0, 1])
def test_frequencies_and_temperature_equal_transformers(case: dict, longer: int) -> None:
    window = Window(**case)
    pairs, length = window.rotary_dim // 2, window.original_length + longer
    factors = {"short_factor": drawn_factors(pairs, 1.5, 0), "long_factor": drawn_factors(pairs, 10.0, 1)}
    table, root = transformers_table("longrope", window, length=length, **factors)
    assert relative(LongRope(**factors).frequency(window.at(length)), table) < 1e-6
    assert LongRope(**factors).scale(window, torch.tensor([3])).item() == pytest.approx(root**2, rel=1e-6)


def test_temperature_by_hand() -> None:
    window = Window(rotary_dim=8, original_length=4096, target_length=32768)
    assert LongRope().scale(window, torch.arange(2)).tolist() == pytest.approx([1.118034**2] * 2, rel=1e-6)
    assert LongRope(attention_factor=1.0).scale(window, torch.arange(2)).tolist() == [1, 1]


def test_with_the_factors_of_another_method_it_turns_as_that_one() -> None:
    window = Window(rotary_dim=16, original_length=256, target_length=1024)
    ntk = [4 ** (2 * j / 14) for j in range(8)]
    for factors, other in (([1] * 8, Rope()), ([4] * 8, Pi()), (ntk, Ntk())):
        found = LongRope(long_factor=factors).frequency(window)
        assert torch.allclose(found, other.frequency(window), rtol=1e-12, atol=0)
    assert torch.equal(LongRope().frequency(window), Ntk().frequency(window))
    assert torch.equal(LongRope().frequency(window.at(256)), window.omega)


def test_the_set_flips_one_token_beyond_the_original_length() -> None:
    window = Window(rotary_dim=8, original_length=64, target_length=256)
    method = LongRope(short_factor=SHORT, long_factor=LONG)
    for length, expected in ((1, SHORT), (64, SHORT), (65, LONG), (256, LONG), (1000, LONG)):
        assert (window.omega / method.frequency(window.at(length))).tolist() == pytest.approx(expected)
    assert method.frequency(window).equal(method.frequency(window.at(256)))


def test_one_set_for_all_lengths_needs_no_late_keys() -> None:
    window = Window(rotary_dim=8, original_length=64, target_length=256)
    assert LongRope(short_factor=SHORT, long_factor=LONG).changes_with_length()
    assert not LongRope(short_factor=LONG, long_factor=LONG).changes_with_length()
    for static, expected in (("target", LONG), (65, LONG), (64, SHORT)):
        method = LongRope(short_factor=SHORT, long_factor=LONG, static_for=static)
        assert not method.changes_with_length()
        for length in (3, 256):
            assert (window.omega / method.frequency(window.at(length))).tolist() == pytest.approx(expected)


def test_start_tokens_by_hand() -> None:
    window = Window(rotary_dim=2, base=10.0, original_length=4, target_length=8)
    slots = fill_slots([LongRope(long_factor=(2.0,), start_tokens=3)])
    positions = torch.tensor([0, 1, 2, 3, 7])
    cos, _ = rotation_tables(slots.omega(window), positions, torch.float64, slots.start(window))
    assert cos[:, 0].tolist() == pytest.approx([1, math.cos(1), math.cos(2), math.cos(1.5), math.cos(3.5)])
    # a query at 7 and a key at 1 meet at the angle 3.5 - 1; the temperature of 1.5 and 1/sqrt(2) scale it
    q = torch.tensor([[[[1.0, 0.0]]]]).double()
    k = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]).double()
    v = torch.tensor([[[[1.0], [0.0]]]]).double()
    found = reference_attention(
        q, k, v, methods=[slots.frequency], window=window,
        query_positions=torch.tensor([7]), key_positions=torch.tensor([1, 7]),
    ).item()  # fmt: skip
    logits = [1.5 * math.cos(angle) / math.sqrt(2) for angle in (3.5 - 1, 0)]
    assert found == pytest.approx(math.exp(logits[0]) / sum(map(math.exp, logits)))


def test_start_tokens_make_scores_depend_on_absolute_positions_until_they_are_passed() -> None:
    window = Window(rotary_dim=8, original_length=64, target_length=256)
    q, k, v = (
        torch.randn(1, 2, 20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )

    def at(first: int) -> torch.Tensor:
        places = torch.arange(first, first + 20)
        method = LongRope(long_factor=LONG, start_tokens=4)
        return reference_attention(
            q, k, v, methods=[method], window=window, query_positions=places, key_positions=places
        )

    assert distance(at(100), at(0)) > 1e-2
    assert distance(at(1000), at(100)) < 1e-10


def longrope(short: list[float], long: list[float]) -> dict:
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": TARGET / ORIGINAL,
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": ORIGINAL,
    }


@pytest.mark.parametrize("length", [ORIGINAL // 2, ORIGINAL, ORIGINAL + 1, 2 * ORIGINAL, TARGET])
@torch.no_grad()
def test_logits_equal_those_of_transformers_llama(length: int, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    settings = {key: value for key, value in model.config.to_dict().items() if key != "rope_parameters"}
    settings["max_position_embeddings"] = TARGET
    config = LlamaConfig(**settings, rope_parameters=longrope(list(SHORT), list(LONG)))
    other = LlamaForCausalLM(config).eval()
    other.load_state_dict(model.state_dict())
    tokens = ids(2, length)
    with ls.extend(model, [LongRope(short_factor=SHORT, long_factor=LONG)], target_length=TARGET):
        found = model(tokens, use_cache=False).logits
    assert logit_distance(found, other(tokens, use_cache=False).logits) < LOGITS


@pytest.mark.parametrize("length", [ORIGINAL, ORIGINAL + 1, TARGET])
@torch.no_grad()
def test_logits_equal_those_of_transformers_phi3(length: int, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    shape = {name: getattr(model.config, name) for name in (*names, "num_key_value_heads", "rms_norm_eps")}
    other = Phi3ForCausalLM(
        Phi3Config(
            **shape,
            max_position_embeddings=TARGET,
            original_max_position_embeddings=ORIGINAL,
            rope_parameters=longrope(list(SHORT), list(LONG)),
            pad_token_id=0,
            sliding_window=None,
        )
    ).eval()
    weights = model.state_dict()
    for layer in range(model.config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for fused, parts in (("self_attn.qkv", ("q", "k", "v")), ("mlp.gate_up", ("gate", "up"))):
            room = fused.partition(".")[0]
            rows = [weights.pop(f"{prefix}{room}.{part}_proj.weight") for part in parts]
            weights[f"{prefix}{fused}_proj.weight"] = torch.cat(rows)
    other.load_state_dict(weights)
    tokens = ids(2, length)
    with ls.extend(model, [LongRope(short_factor=SHORT, long_factor=LONG)], target_length=TARGET):
        found = model(tokens, use_cache=False).logits
    assert logit_distance(found, other(tokens, use_cache=False).logits) < LOGITS


@pytest.mark.parametrize("start_tokens", [0, 5])
@torch.no_grad()
def test_cached_keys_follow_when_the_set_flips(start_tokens: int, tiny_model: Maker) -> None:
    """With one layer no hidden state knows of frequencies, so decoding must equal fresh passes on either side."""
    model = tiny_model("llama")
    del model.model.layers[1:]
    model.config.num_hidden_layers = 1
    method = LongRope(short_factor=SHORT, long_factor=LONG, start_tokens=start_tokens)
    tokens = ids(2, 100)
    with ls.extend(model, [method], target_length=TARGET):
        cache = DynamicCache(config=model.config)
        parts = [model(tokens[:, :50], past_key_values=cache).logits]
        parts += [model(tokens[:, i : i + 1], past_key_values=cache).logits for i in range(50, 100)]
        found = torch.cat(parts, dim=1)
        short, long = (model(tokens[:, :length], use_cache=False).logits for length in (ORIGINAL, 100))
    assert logit_distance(found[:, :ORIGINAL], short) < LOGITS
    assert logit_distance(found[:, ORIGINAL:], long[:, ORIGINAL:]) < LOGITS
    assert logit_distance(short, long[:, :ORIGINAL]) > 1e-3


@torch.no_grad()
def test_each_row_of_a_batch_flips_by_its_own_length(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    tokens = ids(1, 100)
    padded = torch.cat((torch.zeros(1, 50, dtype=torch.long), tokens[:, :50]), dim=1)
    mask = torch.stack((torch.arange(100) >= 50, torch.ones(100, dtype=torch.bool))).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with ls.extend(model, [LongRope(short_factor=SHORT, long_factor=LONG)], target_length=TARGET):
        both = model(torch.cat((padded, tokens)), attention_mask=mask, position_ids=positions, use_cache=False).logits
        assert logit_distance(both[:1, 50:], model(tokens[:, :50], use_cache=False).logits) < LOGITS
        assert logit_distance(both[1:], model(tokens, use_cache=False).logits) < LOGITS


@pytest.mark.parametrize("feature", ["coca+", "pope(width='half')+"])
def test_it_composes_with_features_of_as_many_pairs(feature: str, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    pairs = fill_slots(parse_methods(feature[:-1])).rotary_dim(8) // 2
    method = f"{feature}long_rope(long_factor={drawn_factors(pairs, 5, 0)}, start_tokens=2)"
    with ls.extend(model, method, target_length=TARGET):
        assert len(model.model.rotary_emb.inv_freq) == pairs


def test_factors_are_spelled_and_saved_and_come_back(tiny_model: Maker, tmp_path: Path) -> None:
    method = LongRope(short_factor=[1, 1, 1.25, 2], long_factor=LONG, start_tokens=4)
    assert format_methods([method]) == (
        "long_rope(short_factor=(1.0, 1.0, 1.25, 2.0), long_factor=(1.0, 1.7, 3.1, 4.9), start_tokens=4)"
    )
    assert parse_methods(format_methods([method])) == (method,)
    assert parse_methods("long_rope(short_factor=[1, 1, 1.25, 2], long_factor=[1, 1.7, 3.1, 4.9], start_tokens=4)") == (
        method,
    )
    assert methods_from_json(methods_to_json([method])) == (method,)
    model = tiny_model("llama")
    ls.extend(model, [method], target_length=TARGET)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert current_methods(loaded) == (method,)
    with torch.no_grad():
        for length in (ORIGINAL, ORIGINAL + 1):
            assert torch.equal(loaded(ids(1, length)).logits, model(ids(1, length)).logits)


def test_a_number_too_many_is_refused_before_the_model_is_touched(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    before = copy.deepcopy(model.config.to_dict())
    for name in ("short_factor", "long_factor"):
        with pytest.raises(MethodError, match=f"5 numbers in {name}, but 4 pairs of a head turn"):
            ls.extend(model, [LongRope(**{name: (1.0,) * 5})], target_length=TARGET)
    assert model.config.to_dict() == before
