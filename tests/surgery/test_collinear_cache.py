"""A cache of un-rotated keys gives what transformers' own gives, wherever that one is right, in half the width."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

import longspan as ls
from longspan.errors import ConfigError, LengthError
from longspan.kernels.half_width import half_width_attention
from longspan.surgery import half_width
from longspan.surgery.growing import GrowingLayer
from surgery_methods import GROWING, METHODS
from tolerances import LOGITS, logit_distance

Maker = Callable[[str], PreTrainedModel]
TARGET = 256
STILL = tuple(methods for methods in METHODS if methods not in GROWING)
EXACT = "coca+yarn"
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def ids(rows: int = 2, length: int = 100, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 128, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def decoded(model: PreTrainedModel, tokens: torch.Tensor, cache: object, prefill: int = 60) -> torch.Tensor:
    parts = [model(tokens[:, :prefill], past_key_values=cache).logits]
    parts += [model(tokens[:, i : i + 1], past_key_values=cache).logits for i in range(prefill, tokens.shape[1])]
    return torch.cat(parts, dim=1)


@pytest.fixture(autouse=True)
def read_turning(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Half-width keys turn while they are read in each step here, and not only in long rows; keys of each such step."""
    steps: list[int] = []

    def counted(*arguments: torch.Tensor, **settings: object) -> torch.Tensor:
        steps.append(arguments[1].shape[2])
        return half_width_attention(*arguments, **settings)

    monkeypatch.setattr(half_width, "FROM", 0)
    monkeypatch.setattr(half_width, "half_width_attention", counted)
    return steps


@pytest.fixture
def exact(tiny_model: Maker) -> PreTrainedModel:
    """A tiny Llama under exact CoCA and YaRN."""
    model = tiny_model("llama")
    ls.extend(model, EXACT, target_length=TARGET)
    return model


@pytest.mark.parametrize("max_length", [None, pytest.param(128, marks=pytest.mark.slow)])
@pytest.mark.parametrize("methods_text", STILL)
def test_decoding_equals_the_full_forward(methods_text: str, max_length: int | None, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    with ls.extend(model, methods_text, target_length=TARGET):
        tokens = ids(length=76)  # goes on across the original length, 64
        found = decoded(model, tokens, ls.CollinearCache(model.config, max_length=max_length))
        with torch.no_grad():
            assert logit_distance(found, model(tokens, use_cache=False).logits) < LOGITS


@pytest.mark.parametrize("methods_text", ["rope", "coca"])
def test_every_family_decodes_with_it(family: str, methods_text: str, tiny_model: Maker) -> None:
    model = tiny_model(family)
    with ls.extend(model, methods_text, target_length=TARGET):
        tokens = ids(length=70)
        cache = ls.CollinearCache(model.config)
        found = decoded(model, tokens, cache)
        plain = DynamicCache(config=model.config)
        assert logit_distance(found, decoded(model, tokens, plain)) < LOGITS
        # the position that travels with each key tells that this cache was used
        assert cache.layers[0].keys.shape[-1] != plain.layers[0].keys.shape[-1]


@pytest.mark.parametrize("methods_text", GROWING)
def test_growing_frequencies_find_no_stale_key(methods_text: str, tiny_model: Maker) -> None:
    """The first layer's input does not depend on frequencies, so its last logits must not know of the cache."""
    model = tiny_model("llama")
    model.config.num_hidden_layers = 1
    del model.base_model.layers[1:]
    with ls.extend(model, methods_text, target_length=TARGET):
        found = decoded(model, ids(), ls.CollinearCache(model.config))
        with torch.no_grad():
            full = model(ids(), use_cache=False).logits
        assert logit_distance(found[:, -1], full[:, -1]) < LOGITS


def test_new_tokens_read_keys_that_nobody_turned(exact: PreTrainedModel, read_turning: list[int]) -> None:
    decoded(exact, ids(), ls.CollinearCache(exact.config))
    assert read_turning == [length for length in range(61, 101) for _ in exact.base_model.layers]


@torch.no_grad()
def test_a_few_tokens_at_once_read_them_too(exact: PreTrainedModel, read_turning: list[int]) -> None:
    cache, tokens = ls.CollinearCache(exact.config), ids()
    exact(tokens[:, :95], past_key_values=cache)
    found = exact(tokens[:, 95:], past_key_values=cache).logits
    assert read_turning == [100, 100]
    assert logit_distance(found, exact(tokens, use_cache=False).logits[:, 95:]) < LOGITS


@pytest.mark.parametrize("other", ["eager", "gradients", "bias of a caller", "full width"])
def test_whatever_the_kernel_cannot_say_takes_the_usual_way(
    other: str, tiny_model: Maker, read_turning: list[int]
) -> None:
    model = tiny_model("llama")
    ls.extend(model, "yarn" if other == "full width" else EXACT, target_length=TARGET)
    if other == "eager":
        model.set_attn_implementation("eager")
    tokens, cache = ids(), ls.CollinearCache(model.config)
    mask = torch.zeros(2, 1, 1, 100) if other == "bias of a caller" else None
    with torch.set_grad_enabled(other == "gradients"):
        model(tokens[:, :-1], past_key_values=cache)
        found = model(tokens[:, -1:], past_key_values=cache, attention_mask=mask).logits
    assert read_turning == []
    assert logit_distance(found, model(tokens, use_cache=False).logits[:, -1:]) < LOGITS


@torch.no_grad()
def test_a_step_writes_its_own_token_alone(exact: PreTrainedModel) -> None:
    cache, tokens = ls.CollinearCache(exact.config), ids()
    exact(tokens[:, :60], past_key_values=cache)
    places = [layer.keys.data_ptr() for layer in cache.layers]
    decoded(exact, tokens[:, 60:], cache, prefill=1)
    assert [layer.keys.data_ptr() for layer in cache.layers] == places
    assert all(isinstance(layer, GrowingLayer) for layer in cache.layers)


@torch.no_grad()
def test_caches_that_share_a_beginning_do_not_write_into_each_other(exact: PreTrainedModel) -> None:
    tokens, shared = ids(), ls.CollinearCache(exact.config)
    exact(tokens[:, :60], past_key_values=shared)
    copies = [copy.deepcopy(shared), ls.CollinearCache(exact.config)]
    for layer, given in zip(copies[1].layers, shared.layers, strict=True):
        layer.update(given.keys, given.values)
    for cache in copies:
        exact(ids(seed=1)[:, :20], past_key_values=cache)
    found = decoded(exact, tokens[:, 60:], shared, prefill=1)
    assert logit_distance(found, exact(tokens, use_cache=False).logits[:, 60:]) < LOGITS


def test_keys_take_half_the_width_and_three_columns(exact: PreTrainedModel) -> None:
    half, whole = ls.CollinearCache(exact.config), DynamicCache(config=exact.config)
    for cache in (half, whole):
        decoded(exact, ids(), cache)
    head_dim = whole.layers[0].keys.shape[-1]
    assert half.layers[0].keys.shape[-1] == head_dim // 2 + 3
    assert half.layers[0].keys.dtype == whole.layers[0].keys.dtype
    assert half.layers[0].values.shape == whole.layers[0].values.shape


@pytest.mark.parametrize(
    "settings",
    [
        GREEDY,
        {**GREEDY, "num_beams": 3},
        {**GREEDY, "num_beams": 2, "num_return_sequences": 2},
        {**GREEDY, "do_sample": True, "top_k": 10},
    ],
    ids=["greedy", "beams", "beams-returned", "sampling"],
)
@pytest.mark.parametrize("max_length", [None, 128])
def test_generation_gives_the_same_tokens(
    settings: dict[str, object], max_length: int | None, exact: PreTrainedModel
) -> None:
    long, short = ids(rows=1, length=80), ids(rows=1, length=61, seed=1)
    padded = torch.cat((torch.zeros(1, 19, dtype=torch.long), short), dim=1)
    prompt = {"input_ids": torch.cat((long, padded))}
    prompt["attention_mask"] = torch.stack((torch.ones(80), torch.arange(80) >= 19)).long()
    results = []
    for cache in (DynamicCache(config=exact.config), ls.CollinearCache(exact.config, max_length=max_length)):
        torch.manual_seed(0)
        results.append(exact.generate(**prompt, **settings, past_key_values=cache, disable_compile=True))
    assert torch.equal(*results)


@torch.no_grad()
def test_a_cropped_and_reordered_cache_goes_on_as_the_text_it_holds(exact: PreTrainedModel) -> None:
    first, second = ids(rows=2, length=90), ids(rows=2, length=20, seed=1)
    cache = ls.CollinearCache(exact.config)
    exact(first, past_key_values=cache)
    cache.crop(-20)
    cache.reorder_cache(torch.tensor([1, 0]))
    found = exact(second, past_key_values=cache).logits
    whole = torch.cat((first.flip(0)[:, :70], second), dim=1)
    assert logit_distance(found, exact(whole, use_cache=False).logits[:, 70:]) < LOGITS


@torch.no_grad()
def test_in_bfloat16_it_is_as_near_to_float32_as_the_usual_cache(exact: PreTrainedModel) -> None:
    tokens = ids()
    expected = exact(tokens, use_cache=False).logits
    exact.bfloat16()
    distances = [
        logit_distance(decoded(exact, tokens, cache).float(), expected)
        for cache in (ls.CollinearCache(exact.config), DynamicCache(config=exact.config))
    ]
    assert distances[0] < 1.5 * distances[1]


def test_offloading_without_an_accelerator_is_refused(exact: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no CUDA device to offload from; leave it out"):
        ls.CollinearCache(exact.config, offloading=True)


@pytest.mark.gpu
@pytest.mark.parametrize("max_length", [None, 128])
@pytest.mark.parametrize("methods_text", ["coca+yarn", "dynamic_ntk(factor=4)"])
def test_layers_that_are_offloaded_give_the_same_tokens(
    methods_text: str, max_length: int | None, tiny_model: Maker
) -> None:
    model = tiny_model("llama").cuda()
    ls.extend(model, methods_text, target_length=TARGET)
    results = []
    for offloading in (False, True):
        cache = ls.CollinearCache(model.config, max_length=max_length, offloading=offloading)
        results.append(model.generate(ids().cuda(), **GREEDY, past_key_values=cache, disable_compile=True))
    assert torch.equal(*results)
    assert cache.layers[-1].keys.device.type == "cpu"


def test_a_length_that_holds_nothing_is_refused(exact: PreTrainedModel) -> None:
    with pytest.raises(LengthError, match="max_length is 0"):
        ls.CollinearCache(exact.config, max_length=0)
