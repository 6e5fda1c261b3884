"""Bytes of weights and of cached keys and values: arithmetic from a config, nothing is loaded."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import DynamicCache, PreTrainedConfig

from longspan.equation import initial_parameters
from longspan.surgery import Plan
from longspan.surgery.attention import apply_features
from longspan.surgery.families import head_dim
from longspan.surgery.rotary import LOCAL, LongspanRotary, Terms
from longspan.surgery.site import ATTRIBUTE, Site

CacheKind = Literal["dynamic", "static", "collinear"]
"""transformers' growing cache, its cache of fixed size, and longspan's of un-rotated keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that a model takes while it reads one sequence of `length` tokens and gives the logits of the last."""

    length: int
    weights: int
    cache: int
    """Keys and values of every layer."""
    prefill: int
    """What the forward pass takes for a while beside these two."""

    @property
    def total(self) -> int:
        """The most there is at once."""
        return self.weights + self.cache + self.prefill


def cache_bytes(
    config: PreTrainedConfig, plan: Plan, length: int, dtype: torch.dtype, kind: CacheKind = "dynamic"
) -> int:
    """Bytes of keys and values after `length` tokens, in the layers that transformers makes for `config`.

    A layer that slides keeps its window but one in a cache that grows, and the whole window in one of fixed size.
    Slices of longer tensors, which the library keeps until the next token comes, count as what they show.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    layers = DynamicCache(config=config).layers
    layer_types = getattr(config, "layer_types", None) or [None] * len(layers)
    numbers = 0
    for layer, layer_type in zip(layers, layer_types, strict=True):
        tokens = length
        if layer.is_sliding:
            tokens = min(length, layer.sliding_window - (kind != "static"))
        numbers += tokens * (key_width(config, _terms(plan, layer_type), late=kind == "collinear") + head_dim(config))
    return numbers * heads * dtype.itemsize


def _terms(plan: Plan, layer_type: str | None) -> Terms:
    local = plan.local is not None and layer_type == LOCAL
    return plan.local if local and plan.local is not None else Terms(plan.slots, plan.window)


def key_width(config: PreTrainedConfig, terms: Terms, *, late: bool = False) -> int:
    """Numbers that a cached key takes, told from one key that goes the way of the patched attention.

    Args:
        late: whether the cache asks for un-rotated keys.
    """
    slots, window = terms
    plain = slots.feature is None and slots.bias is None and slots.bands is None
    if plain and not slots.follows_length() and not late:
        return head_dim(config)
    parameters = initial_parameters(slots, 1, window.rotary_dim)
    site = Site(slots, window.rotary_dim, window.layout, tuple(parameters))
    module = types.SimpleNamespace(**{ATTRIBUTE: site}, **parameters)
    key = torch.zeros(1, 1, 1, head_dim(config))
    rotation = LongspanRotary(slots, window).eval()(key, torch.zeros(1, 1, dtype=torch.long))
    return apply_features(key, key, module, rotation._replace(keys_turn_late=late))[1].shape[-1]


def weight_bytes(model: Any, dtype: torch.dtype) -> int:
    """Bytes of all parameters, those that methods add included."""
    return sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize


def doublings(original_length: int, target_length: int) -> list[int]:
    """The original length, its doublings below the target, and the target."""
    count = math.ceil(math.log2(target_length / original_length))
    return [*(original_length * 2**step for step in range(count)), target_length]
