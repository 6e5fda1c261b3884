"""Inputs that one forward pass cannot hold are read in chunks, each attending to a cache of all before it.

The result is that of one pass: positions go on, and frequencies that follow the length are those of the whole. Of
tokens whose output nobody asks for, the last layer only stores keys and values.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, Cache, DynamicCache, PreTrainedModel

from longspan.kernels.cached import cached_attention
from longspan.surgery.families import FAMILIES, PREFIX
from longspan.surgery.rotary import LongspanRotary, counted

_NAME = "longspan_cached"
"""Of the attention function. transformers makes no mask for a function that it has no kind of mask for."""
_IMPLEMENTATIONS = ("eager", "sdpa")
_STORING: ContextVar[bool] = ContextVar("storing", default=False)
"""Whether this pass is there for the cache alone."""
_FOLLOWING_ROPE = ("dynamic", "longrope")
"""rope types of transformers whose cached keys were turned by the frequencies of a shorter length."""


class _Stored(Exception):
    """All layers have stored their keys and values: the rest of this pass is of no use."""


def takes_chunks(model: PreTrainedModel) -> bool:
    """Whether chunks give what one pass gives: plain causal attention, or frequencies, features and scales of longspan.

    Attention with a bias, in bands, soft-capped or to selected places reads an input in one pass.
    """
    config = model.config
    family = FAMILIES.get(config.model_type.removeprefix(PREFIX))
    if family is None or family.forward is not None or config._attn_implementation not in _IMPLEMENTATIONS:
        return False
    if not isinstance(model.get_decoder(), PreTrainedModel):  # whatever it is, it does not attend as the config says
        return False
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return False
    rotaries = [module for module in model.modules() if isinstance(module, LongspanRotary)]
    if not rotaries:
        rope = config.rope_parameters
        kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
        return not any(kind.get("rope_type") in _FOLLOWING_ROPE for kind in kinds)
    used = [rotary.slots for rotary in rotaries] + [rotary.local.slots for rotary in rotaries if rotary.local]
    return all(slots.bands is None and slots.bias is None and not slots.selects(training=False) for slots in used)


def saves_memory(model: PreTrainedModel) -> bool:
    """Whether the cache of all layers is no larger than what one pass without a cache holds of one layer.

    Numbers a token: keys and values of all layers, against three of the MLP's width and four of the model's.
    With a key head for every query head, or many layers, one pass takes less.
    """
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached: int = 2 * config.num_hidden_layers * heads * head_dim
    return cached <= 3 * config.intermediate_size + 4 * config.hidden_size


@contextlib.contextmanager
def attending_to_cache(model: PreTrainedModel, length: int) -> Iterator[None]:
    """Inside, forward passes attend to their cache without a mask, as parts of an input of `length` tokens.

    Rows must be full: what a mask hides would be seen. The model must be one that `takes_chunks`.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        with counted(model, length):
            yield
    finally:
        model.set_attn_implementation(before)


def store(model: PreTrainedModel, part: Tensor, cache: Cache) -> None:
    """Read `part`, token ids `[B, T]`, into `cache`, and leave out what the last layer makes of it.

    To be called inside `attending_to_cache`.
    """
    storing = _STORING.set(True)
    try:
        model.get_decoder()(input_ids=part, past_key_values=cache, use_cache=True, return_dict=True)
    except _Stored:
        return
    finally:
        _STORING.reset(storing)
    raise AssertionError("the last layer attends by another function")


def hidden_in_chunks(model: PreTrainedModel, rows: Tensor, size: int, first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """The first column of each chunk of `size` tokens, and its last hidden states `[B, size, hidden]`.

    To be read inside `attending_to_cache`.

    Args:
        rows: token ids, LongTensor [B, T].
        first: columns before it have no hidden states, and are only stored.
    """
    cache, decoder = DynamicCache(config=model.config), model.get_decoder()
    for start in range(0, first, size):
        store(model, rows[:, start : min(start + size, first)], cache)
    for start in range(first, rows.shape[1], size):
        part = rows[:, start : start + size]
        yield start, decoder(input_ids=part, past_key_values=cache, use_cache=True, return_dict=True).last_hidden_state


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`cached_attention` in the form of transformers' attention functions."""
    assert attention_mask is None, "rows of an input that is read in chunks are full"
    if _STORING.get() and module.layer_idx == module.config.num_hidden_layers - 1:
        raise _Stored
    scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    return cached_attention(query, key, value, scaling=scaling, window=sliding_window).transpose(1, 2), None


AttentionInterface.register(_NAME, _attend)
