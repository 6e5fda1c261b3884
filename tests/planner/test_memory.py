"""Bytes of caches against the tensors that transformers really keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

import longspan
from longspan.planner.memory import CacheKind, cache_bytes, doublings
from longspan.report.formats import format_bytes
from longspan.surgery import CollinearCache, plan

Make = Callable[[str], PreTrainedModel]


def kept(model: PreTrainedModel, cache: Cache, length: int) -> int:
    """Bytes of keys and values after `length` tokens."""
    with torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.long), past_key_values=cache)
    # storage of a slice counts in whole; what is kept for good is what a copy takes
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def made(kind: CacheKind, model: PreTrainedModel, length: int) -> Cache:
    if kind == "static":
        return StaticCache(config=model.config, max_cache_len=length)
    return DynamicCache(config=model.config) if kind == "dynamic" else CollinearCache(model.config)


@pytest.mark.parametrize("kind", ["dynamic", "static", "collinear"])
@pytest.mark.parametrize("length", [8, 64])
def test_every_family_keeps_what_is_told(tiny_model: Make, family: str, kind: CacheKind, length: int) -> None:
    model = tiny_model(family)
    found = longspan.extend(model, "rope").plan
    assert cache_bytes(model.config, found, length, torch.float32, kind) == kept(
        model, made(kind, model, length), length
    )


@pytest.mark.parametrize("method", ["coca", "pope", "pope(phase=False)", "dynamic_ntk", "coca+dynamic_ntk", "alibi"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("kind", ["dynamic", "collinear"])
def test_local_and_global_layers_keep_the_keys_of_their_methods(
    tiny_model: Make, family: str, method: str, kind: CacheKind
) -> None:
    model = tiny_model(family)
    found = longspan.extend(model, method, target_length=128).plan
    assert cache_bytes(model.config, found, 64, torch.float32, kind) == kept(model, made(kind, model, 64), 64)


def test_sixteen_bits_take_half(tiny_model: Make) -> None:
    model = tiny_model("mistral").to(torch.bfloat16)
    found = plan(model, "none")
    assert cache_bytes(model.config, found, 64, torch.bfloat16) == kept(model, DynamicCache(config=model.config), 64)


def test_a_layer_that_slides_keeps_its_window_only() -> None:
    from conftest import make_model

    model = make_model("mistral", sliding_window=16)
    for length in (8, 64):
        bytes_kept = kept(model, DynamicCache(config=model.config), length)
        assert cache_bytes(model.config, plan(model, "none"), length, torch.float32) == bytes_kept


def test_doublings_end_at_the_target() -> None:
    assert doublings(64, 64) == [64]
    assert doublings(64, 200) == [64, 128, 200]
    assert doublings(100, 800) == [100, 200, 400, 800]


@pytest.mark.parametrize(
    ("number", "text"), [(1023, "1023 B"), (1536, "1.5 KiB"), (1044480, "1020 KiB"), (3 << 30, "3 GiB")]
)
def test_bytes_are_written_with_a_unit(number: int, text: str) -> None:
    assert format_bytes(number) == text
