"""Cached decoding, generation and saving: nothing is stale and nothing is lost on the way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel, StaticCache

import longspan as ls
from conftest import make_model
from longspan.errors import CheckpointError, FamilyError
from surgery_methods import BANDED, GROWING, METHODS, TARGET, ids, matrix
from tolerances import LOGITS, logit_distance

Maker = Callable[[str], PreTrainedModel]
ONE_LAYER = {"num_hidden_layers": 1}
ONE_LAYER_OF = {family: {"layer_types": ["full_attention"]} for family in ("gemma2", "gemma3_text")}
STILL = tuple(methods for methods in METHODS if methods not in GROWING)


@torch.no_grad()
def decoded(model: PreTrainedModel, tokens: torch.Tensor, prefill: int) -> tuple[torch.Tensor, DynamicCache]:
    cache = DynamicCache(config=model.config)
    parts = [model(tokens[:, :prefill], past_key_values=cache).logits]
    parts += [model(tokens[:, i : i + 1], past_key_values=cache).logits for i in range(prefill, tokens.shape[1])]
    return torch.cat(parts, dim=1), cache


@pytest.mark.parametrize(("family", "methods_text"), matrix(STILL))
def test_cached_decoding_equals_the_full_forward(family: str, methods_text: str, tiny_model: Maker) -> None:
    model = tiny_model(family)
    with ls.extend(model, methods_text, target_length=TARGET):
        tokens = ids(length=75)
        found, _ = decoded(model, tokens, prefill=60)  # goes on across the original length, 64
        with torch.no_grad():
            assert logit_distance(found, model(tokens, use_cache=False).logits) < LOGITS


@pytest.mark.parametrize(("family", "methods_text"), matrix(GROWING))
def test_growing_frequencies_decode_exactly_while_they_stand_still(
    family: str, methods_text: str, tiny_model: Maker
) -> None:
    model = tiny_model(family)
    with ls.extend(model, methods_text, target_length=TARGET):
        tokens = ids(length=64)
        found, _ = decoded(model, tokens, prefill=55)
        with torch.no_grad():
            assert logit_distance(found, model(tokens, use_cache=False).logits) < LOGITS
    static = methods_text.replace("factor=4.0", "factor=4.0, static_for='target'")
    with ls.extend(model, static, target_length=TARGET):
        tokens = ids(length=75)
        found, _ = decoded(model, tokens, prefill=60)
        with torch.no_grad():
            assert logit_distance(found, model(tokens, use_cache=False).logits) < LOGITS


@pytest.mark.parametrize(("family", "methods_text"), matrix(GROWING))
def test_cached_keys_of_the_first_layer_equal_fresh_ones_after_the_base_has_grown(
    methods_text: str, family: str
) -> None:
    """The first layer's input does not depend on frequencies, so its last logits must not know of the cache."""
    model = make_model(family, **{**ONE_LAYER, **ONE_LAYER_OF.get(family, {})})
    with ls.extend(model, methods_text, target_length=TARGET):
        tokens = ids(length=85)
        found, _ = decoded(model, tokens, prefill=60)
        with torch.no_grad():
            full = model(tokens, use_cache=False).logits
        assert logit_distance(found[:, -1], full[:, -1]) < LOGITS
        # a token before was decoded under the base of its own time, so there the two must differ
        assert logit_distance(found[:, 70], full[:, 70]) > 1e-4


def test_growing_coca_caches_keys_of_half_the_width(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    with ls.extend(model, "coca+dynamic_ntk(factor=4)", target_length=TARGET):
        _, cache = decoded(model, ids(), prefill=60)
        assert cache.layers[0].keys.shape[-1] == 4 + 3  # three small numbers hold the position
        assert cache.layers[0].values.shape[-1] == 8


def test_a_cache_of_fixed_size_gives_the_same_tokens(methods: str, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    with ls.extend(model, methods, target_length=TARGET):
        prompt = {"input_ids": ids(length=70), "attention_mask": torch.ones(2, 70, dtype=torch.long)}
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        settings["disable_compile"] = True
        growing = model.generate(**prompt, **settings)
        assert torch.equal(model.generate(**prompt, **settings, cache_implementation="static"), growing)


@torch.no_grad()
def test_a_fixed_cache_lets_no_later_token_move_an_earlier_logit(methods: str, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    with ls.extend(model, methods, target_length=TARGET):
        tokens = ids(length=50)
        other = tokens.clone()
        other[:, -1] = (other[:, -1] + 1) % 128
        found = [
            model(row, past_key_values=StaticCache(config=model.config, max_cache_len=100)).logits[:, :-1]
            for row in (tokens, other)
        ]
        assert torch.equal(*found)


@pytest.mark.parametrize("methods_text", ["alibi", "dynamic_ntk(factor=4.0, static_for='target')", "coca+dynamic_ntk"])
@torch.no_grad()
def test_a_hole_of_padding_in_the_cache_changes_nothing(methods_text: str, tiny_model: Maker) -> None:
    """A second turn after a padded first one: positions go on, storage has a hole."""
    model = tiny_model("llama")
    model.config.num_hidden_layers = 1  # later layers of the growing method see states of another base, rightly
    del model.base_model.layers[1:]
    with ls.extend(model, methods_text, target_length=TARGET):
        first, second = ids(rows=1, length=60), ids(rows=1, length=20, seed=1)
        whole = model(torch.cat((first, second), dim=1), use_cache=False).logits
        cache = DynamicCache(config=model.config)
        padded = torch.cat((first, torch.zeros(1, 30, dtype=torch.long)), dim=1)
        mask = torch.cat((torch.ones(1, 60), torch.zeros(1, 30)), dim=1).long()
        model(padded, attention_mask=mask, past_key_values=cache, position_ids=torch.arange(90)[None])
        mask = torch.cat((mask, torch.ones(1, 20, dtype=torch.long)), dim=1)
        found = model(
            second, attention_mask=mask, past_key_values=cache, position_ids=torch.arange(60, 80)[None]
        ).logits
        assert logit_distance(found, whole[:, 60:]) < LOGITS


def test_sliding_window_layers_decode_as_they_prefill(methods: str) -> None:
    model = make_model("mistral", sliding_window=24)
    if methods in GROWING:
        methods = methods.replace("factor=4.0", "factor=4.0, static_for='target'")
    if any(name in methods for name in BANDED):
        with pytest.raises(FamilyError, match="every layer of the model slides"):
            ls.extend(model, methods, target_length=TARGET)
        return
    with ls.extend(model, methods, target_length=TARGET):
        tokens = ids(length=76)
        found, _ = decoded(model, tokens, prefill=60)
        with torch.no_grad():
            assert logit_distance(found, model(tokens, use_cache=False).logits) < LOGITS


@pytest.mark.parametrize(("family", "methods"), matrix())
def test_saved_models_load_with_the_same_logits_and_tokens(
    family: str, methods: str, tiny_model: Maker, tmp_path: Path
) -> None:
    model = tiny_model(family)
    ls.extend(model, methods, target_length=TARGET)
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.config.model_type == f"longspan_{family}"
    with torch.no_grad():
        assert torch.equal(loaded(ids()).logits, model(ids()).logits)
    prompt = {"input_ids": ids(length=62), "attention_mask": torch.ones(2, 62, dtype=torch.long)}
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(loaded.generate(**prompt, **settings), model.generate(**prompt, **settings))


def test_generation_from_a_left_padded_batch_equals_one_by_one(methods: str, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    with ls.extend(model, methods, target_length=TARGET):
        long, short = ids(rows=1, length=80), ids(rows=1, length=61, seed=1)
        padded = torch.cat((torch.zeros(1, 19, dtype=torch.long), short), dim=1)
        mask = torch.stack((torch.ones(80), (torch.arange(80) >= 19))).long()
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        both = model.generate(torch.cat((long, padded)), attention_mask=mask, **settings)[:, 80:]
        for row, tokens in enumerate((long, short)):
            alone = model.generate(tokens, attention_mask=torch.ones_like(tokens), **settings)[:, tokens.shape[1] :]
            assert torch.equal(both[row : row + 1], alone)


def test_a_patched_checkpoint_never_loads_silently_as_the_plain_model(tiny_model: Maker, tmp_path: Path) -> None:
    model = tiny_model("llama")
    ls.extend(model, "coca")
    model.save_pretrained(tmp_path)
    load = f"AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})\n"
    code = (
        "from transformers import AutoModelForCausalLM\n"
        f"try: {load}"
        "except ValueError as error: assert 'longspan_llama' in str(error)\n"
        "else: raise SystemExit('loaded without longspan')\n"
        "import longspan\n" + load
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_checkpoint_without_the_phases_is_refused(tiny_model: Maker, tmp_path: Path) -> None:
    model = tiny_model("llama")
    ls.extend(model, "pope")
    weights = {name: value for name, value in model.state_dict().items() if not name.endswith("phase")}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(CheckpointError, match="lacks 2 of the model's weights"):
        ls.load(tmp_path)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_lie_one_by_one_in_a_patched_folder_as_in_a_plain_one(
    family: str, tiny_model: Maker, tmp_path: Path
) -> None:
    tiny_model(family).save_pretrained(tmp_path / "plain")
    model = ls.load(tmp_path / "plain")
    ls.extend(model, "coca+yarn", target_length=TARGET)
    model.save_pretrained(tmp_path / "patched")
    plain, patched = (safetensors_names(tmp_path / name) for name in ("plain", "patched"))
    assert plain == patched
    assert any("experts.3." in name for name in patched)
    with torch.no_grad():
        assert torch.equal(ls.load(tmp_path / "patched")(ids()).logits, model(ids()).logits)


def safetensors_names(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())
