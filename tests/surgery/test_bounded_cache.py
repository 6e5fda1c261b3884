"""A cache that lets the middle go, against one that keeps everything and masks it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

import longspan as ls
from longspan.errors import DataError, MethodError

METHODS = ["streaming(sinks=3, recent=20)", "streaming(sinks=0)", "lm_infinite(sinks=4, local=30)", "streaming+coca"]
IDS = torch.randint(3, 128, (1, 100), generator=torch.Generator().manual_seed(0))


def extended(model: PreTrainedModel, methods: str) -> PreTrainedModel:
    return ls.extend(model, methods, target_length=256).model


@torch.no_grad()
def logits(model: PreTrainedModel, cache: object, parts: list[int]) -> torch.Tensor:
    return torch.cat([model(part, past_key_values=cache).logits for part in IDS.split(parts, dim=1)], dim=1)


@pytest.mark.parametrize("methods", METHODS)
@pytest.mark.parametrize(
    "parts", [[60, *[1] * 40], [*[1] * 10, 90], [7, 43, 1, 20, 29]], ids=["tokens", "late", "parts"]
)
def test_equals_a_cache_of_everything_however_the_input_comes(
    methods: str, parts: list[int], tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    model = extended(tiny_model("llama"), methods)
    expected = logits(model, DynamicCache(config=model.config), [100])
    found = logits(model, ls.BoundedCache(model), parts)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_every_family_generates_the_same_tokens(family: str, tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model = extended(tiny_model(family), "streaming(sinks=3, recent=20)")
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(IDS, attention_mask=torch.ones_like(IDS), **settings)
    settings["past_key_values"] = ls.BoundedCache(model)
    assert torch.equal(model.generate(IDS, attention_mask=torch.ones_like(IDS), **settings), expected)


def test_its_size_stays_over_a_long_stream(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model = extended(tiny_model("llama"), "streaming(sinks=4, recent=60)")
    cache = ls.BoundedCache(model)
    stream = torch.randint(3, 128, (1, 20_000), generator=torch.Generator().manual_seed(1))
    sizes = set()
    with torch.no_grad():
        for part in stream.split(500, dim=1):
            output = model(part, past_key_values=cache, logits_to_keep=1).logits
            sizes |= {(layer.keys.shape[-2], layer.values.shape[-2]) for layer in cache.layers}
    assert sizes == {(63, 63)}
    assert cache.get_seq_length() == 20_000
    assert output.isfinite().all()


def test_several_rows_are_refused(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model = extended(tiny_model("llama"), "streaming")
    with pytest.raises(DataError, match="one row at a time, not 2"):
        model(IDS.expand(2, -1), past_key_values=ls.BoundedCache(model))


@pytest.mark.parametrize("methods", [None, "yarn", "self_extend(neighbors=16, group=4)"])
def test_models_that_look_at_the_middle_are_refused(
    methods: str | None, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    model = tiny_model("llama")
    if methods:
        extended(model, methods)
    with pytest.raises(MethodError, match="never look at the middle"):
        ls.BoundedCache(model)
