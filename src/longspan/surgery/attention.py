"""Attention modules with two functions of their forward replaced, and nothing else.

Every supported family computes q and k, calls `apply_rotary_pos_emb`, updates the cache, and calls the attention
function that `ALL_ATTENTION_FUNCTIONS` names. A copy of that very forward runs with our own versions of these two
globals, so projections, norms, caches and kernels stay the library's.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from longspan.equation import Slots, rotate_pairs
from longspan.errors import FamilyError, MethodError
from longspan.kernels.dense import bias_blocks, pad_value, storage_order
from longspan.surgery.rotary import LongspanRotary

ATTRIBUTE = "longspan"
"""Where an attention module keeps its `Site`."""


@dataclass(eq=False, slots=True)
class Site:
    """What one attention module needs at the place where q and k meet RoPE."""

    rotary: LongspanRotary
    slots: Slots
    rotary_dim: int
    """R of the model: features act on these elements, the rest of a head passes."""
    parameters: tuple[str, ...] = ()
    """Names of the feature's learned tensors on the attention module."""

    @property
    def turns_late(self) -> bool:
        """Whether keys are cached un-rotated: the only way that cached keys follow changing frequencies."""
        return self.slots.follows_length()


def apply_features(q: Tensor, k: Tensor, module: Any, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Stands for `apply_rotary_pos_emb`: features, rotation and temperature; late keys stay un-rotated.

    Args:
        q: `B H T D`
        k: `B G T D`
        module: the attention module, put into the place of cos by `forward_with`
        tables: cos and sin, each `B T F`
    """
    site: Site = getattr(module, ATTRIBUTE)
    layout = site.rotary.window.layout
    cos, sin = (table.unsqueeze(1) for table in tables)
    feature = site.slots.feature

    def rotate(x: Tensor) -> Tensor:
        return rotate_pairs(x, cos, sin, layout)

    head, rest = q[..., : site.rotary_dim], q[..., site.rotary_dim :]
    head = rotate(head) if feature is None else feature.query(head, rotate, layout)
    query = _joined(head, rest, q.dtype)
    if site.rotary.tau is not None:
        query = (query * site.rotary.tau[:, None, :, None]).to(q.dtype)
    head, rest = k[..., : site.rotary_dim], k[..., site.rotary_dim :]
    if feature is not None:
        head = feature.psi(head, layout, {name: getattr(module, name) for name in site.parameters})
    head = head if site.turns_late else rotate(head)
    return query, _joined(head, rest, k.dtype)


def _joined(head: Tensor, rest: Tensor, dtype: torch.dtype) -> Tensor:
    head = head.to(dtype)
    return torch.cat((head, rest), dim=-1) if rest.shape[-1] else head


def turn_keys(site: Site, key: Tensor, query_dim: int) -> Tensor:
    """Rotate cached features `B G S W` by the frequencies of this pass, to the width of the queries."""
    rotated = site.slots.rotary_dim(site.rotary_dim)
    rest = query_dim - rotated
    cos, sin = (table.unsqueeze(1) for table in site.rotary.key_tables(key.shape[2], key.dtype))
    head, tail = (key[..., :-rest], key[..., -rest:]) if rest else (key, key[..., :0])
    return _joined(rotate_pairs(head, cos, sin, site.rotary.window.layout), tail, key.dtype)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    interface: Callable[..., tuple[Tensor, Tensor | None]],
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Stands for the library's attention function: turns late keys, adds the bias, then calls that very function."""
    site: Site = getattr(module, ATTRIBUTE)
    if site.turns_late:
        key = turn_keys(site, key, query.shape[-1])
    value, width = pad_value(query, value)
    if site.slots.bias is None:
        output, weights = interface(module, query, key, value, attention_mask, **kwargs)
        return output[..., :width], weights
    queries, keys = query.shape[2], key.shape[2]
    positions = site.rotary.positions
    assert positions is not None
    hidden = max(torch.finfo(dtype).min for dtype in (query.dtype, torch.float32))  # fits the bias, before and after
    outputs: list[Tensor] = []
    all_weights: list[Tensor] = []
    for rows, bias in bias_blocks(site.slots, query.shape[1], positions, site.rotary.key_positions(keys)):
        if attention_mask is None:
            bias = bias.masked_fill(~storage_order(queries, keys, query.device)[rows], hidden)
        elif attention_mask.dtype == torch.bool:
            bias = bias.masked_fill(~attention_mask[:, :, rows, :keys], hidden)
        else:
            bias = bias + attention_mask[:, :, rows, :keys]
        output, weights = interface(module, query[:, :, rows], key, value, bias.to(query.dtype), **kwargs)
        outputs.append(output)
        all_weights += [] if weights is None else [weights]
    return torch.cat(outputs, dim=1)[..., :width], torch.cat(all_weights, dim=2) if all_weights else None


class _Functions:
    """Stands for `ALL_ATTENTION_FUNCTIONS` in a copied forward."""

    def __init__(self, functions: Any):
        self.functions = functions

    def get_interface(self, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        """The library's function of that name, wrapped by `attend`."""
        return functools.partial(attend, interface=self.functions.get_interface(name, default))


@functools.cache
def patched_attention(attention_class: type[nn.Module]) -> type[nn.Module]:
    """A subclass of `attention_class` whose forward meets `apply_features` and `attend`.

    Raises:
        FamilyError: the forward does not use the two names that would be replaced.
    """
    original = inspect.unwrap(attention_class.forward)
    needed = {"apply_rotary_pos_emb", "ALL_ATTENTION_FUNCTIONS"}
    missing = needed - set(original.__code__.co_names)
    if missing:
        name, lacks = attention_class.__name__, ", ".join(sorted(missing))
        raise FamilyError(f"{name} of this transformers version does not use {lacks}: it cannot be patched")
    scope = dict(original.__globals__)
    scope["apply_rotary_pos_emb"] = apply_features
    scope["ALL_ATTENTION_FUNCTIONS"] = _Functions(scope["ALL_ATTENTION_FUNCTIONS"])
    copied = types.FunctionType(
        original.__code__, scope, original.__name__, original.__defaults__, original.__closure__
    )
    copied.__kwdefaults__ = original.__kwdefaults__

    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, position_embeddings: Any, **kwargs: Any) -> Any:
        refuse_static_cache(self, kwargs.get("past_key_values") or kwargs.get("layer_past"))
        # cos and sin are only handed on to apply_rotary_pos_emb, so the module itself can travel with them
        return copied(self, *args, position_embeddings=(self, position_embeddings), **kwargs)

    members = {"forward": forward, "__module__": attention_class.__module__}
    return type("Longspan" + attention_class.__name__, (attention_class,), members)


def refuse_static_cache(module: nn.Module, cache: Any) -> None:
    """Un-rotated keys need a cache that holds no unused places, since a key's position follows from its index."""
    site: Site = getattr(module, ATTRIBUTE)
    if site.turns_late and getattr(cache, "is_compileable", False):
        raise MethodError(
            "frequencies that follow the length need a growing cache, not a static one: "
            "leave out cache_implementation, or fix the frequencies with dynamic_ntk(static_for='target')"
        )
