"""Attention modules with two functions of their forward replaced, and nothing else.

A supported family computes q and k, calls `apply_rotary_pos_emb`, updates the cache, and calls the attention function
that `ALL_ATTENTION_FUNCTIONS` names. A copy of that very forward runs with our own versions of these two globals, so
projections, norms, caches and kernels stay the library's. A forward from before that shape is written anew in it.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from longspan.equation import PartSelection
from longspan.errors import FamilyError, MethodError
from longspan.kernels.dense import bias_blocks, pad_value, storage_order
from longspan.kernels.features import key_features, query_features, rotate_keys, still_queries, turned_keys
from longspan.surgery.banded import attend_in_bands
from longspan.surgery.cache import CollinearCache
from longspan.surgery.half_width import attend_to_half_width
from longspan.surgery.regions import attend_in_regions
from longspan.surgery.rotary import Rotation
from longspan.surgery.site import ATTRIBUTE, Site, with_positions, without_positions

BIAS_KERNELS = ("eager", "sdpa")
"""Attention implementations that take an additive bias."""


def apply_features(q: Tensor, k: Tensor, module: Any, rotation: Rotation) -> tuple[Tensor, Tensor]:
    """Stands for `apply_rotary_pos_emb`: features and rotation; late keys stay un-rotated, and queries, too, where
    positions follow from what a query sees.

    Args:
        q: `B H T D`
        k: `B G T D`
        module: the attention module, put into the place of cos by the patched forward
        rotation: put into the place of sin
    """
    site: Site = getattr(module, ATTRIBUTE)
    tables = (rotation.cos, rotation.sin)
    query = q
    if site.chooses_still():
        query = still_queries(q, site.slots, site.rotary_dim, site.layout)
    elif site.slots.bands is None:
        query = query_features(q, site.slots, site.rotary_dim, site.layout, tables, None)
    parameters = {name: getattr(module, name) for name in site.parameters}
    rest = k.shape[-1] - site.rotary_dim
    if site.turns_late(rotation):
        key = key_features(k, site.slots, site.rotary_dim, site.layout, parameters, stored=True)
    else:
        key = turned_keys(k, site.slots, site.rotary_dim, site.layout, parameters, tables)
    return query, with_positions(key, rotation.positions, rest) if site.keeps_positions(rotation) else key


def for_cache(rotation: Rotation, *arguments: object) -> Rotation:
    """The rotation with the cache among the arguments of a forward: keys turn late in a `CollinearCache`."""
    cache = next((argument for argument in arguments if isinstance(argument, Cache)), None)
    return rotation._replace(cache=cache, keys_turn_late=isinstance(cache, CollinearCache))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    interface: Callable[..., tuple[Tensor, Tensor | None]],
    longspan: Rotation,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Stands for the library's attention function: temperature, late keys and bias, then that very function."""
    site: Site = getattr(module, ATTRIBUTE)
    if site.slots.bands is not None:
        return attend_in_bands(site, query, key, value, attention_mask, longspan, **kwargs), None
    if site.slots.region_rule() is not None:
        return attend_in_regions(site, module, query, key, value, attention_mask, interface, longspan, **kwargs)
    if longspan.tau is not None:  # here, where the part of a head that passes RoPE by is with the rest in every family
        query = (query * longspan.tau[:, None, :, None]).to(query.dtype)
    output = attend_to_half_width(site, module, query, key, value, attention_mask, longspan, **kwargs)
    if output is not None:
        return output, None
    padded, width = pad_value(query, value)
    output, weights = _attended(site, module, query, key, padded, attention_mask, interface, longspan, **kwargs)
    # servers have functions that return heads side by side: cut nothing where nothing was added
    return (output if padded is value else output[..., :width]), weights


def _attended(
    site: Site,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    interface: Callable[..., tuple[Tensor, Tensor | None]],
    longspan: Rotation,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if not site.keeps_positions(longspan):
        return _without_bias(site, module, query, key, value, mask, interface, **kwargs)
    rest = query.shape[-1] - site.slots.rotary_dim(site.rotary_dim)
    key, positions = without_positions(key, rest)
    if site.turns_late(longspan):
        key = rotate_keys(key, rest, site.layout, longspan.of_keys(positions), key.dtype)
    if site.slots.bias is None:
        return _without_bias(site, module, query, key, value, mask, interface, **kwargs)
    attended = functools.partial(interface, module, **kwargs)
    return _with_bias(site, attended, query, key, value, mask, longspan.positions, positions)


def _without_bias(
    site: Site,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    interface: Callable[..., tuple[Tensor, Tensor | None]],
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The library's function, called once, or for each part that a selection makes."""
    selection = site.slots.selection
    if not isinstance(selection, PartSelection) or not site.slots.selects(module.training):
        return interface(module, query, key, value, mask, **kwargs)
    name = type(selection).__name__
    if mask is not None and not isinstance(mask, Tensor):
        raise MethodError(f"{name} attends by parts, which this attention implementation cannot: use eager or sdpa")
    if query.shape[2] != key.shape[2]:
        raise MethodError(f"{name} acts on whole sequences and not on a cache: call model.eval() before generating")

    def part(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return interface(module, query, key, value, mask, **kwargs)[0].transpose(1, 2)

    return selection.attend(part, query, key, value, mask).transpose(1, 2), None


def _with_bias(
    site: Site,
    attended: Callable[..., tuple[Tensor, Tensor | None]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    query_positions: Tensor,
    key_positions: Tensor,
) -> tuple[Tensor, Tensor | None]:
    if mask is not None and not isinstance(mask, Tensor):
        name = type(site.slots.bias).__name__
        raise MethodError(f"{name} adds a bias, which this attention implementation does not take: use eager or sdpa")
    queries, keys = query.shape[2], key.shape[2]
    if mask is None and queries > 1:
        # no mask means: causal, from the first stored key on, with unused places of a fixed cache at the end
        mask = storage_order(queries, keys, query.device, aligned_at_end=False)[None, None]
    hidden = max(torch.finfo(dtype).min for dtype in (query.dtype, torch.float32))  # fits the bias, before and after
    outputs: list[Tensor] = []
    all_weights: list[Tensor] = []
    for rows, bias in bias_blocks(site.slots, query.shape[1], query_positions, key_positions):
        if mask is not None:
            seen = mask[:, :, rows, :keys]
            bias = bias.masked_fill(~seen, hidden) if seen.dtype == torch.bool else bias + seen
        output, weights = attended(query[:, :, rows], key, value, bias.to(query.dtype))
        outputs.append(output)
        all_weights += [] if weights is None else [weights]
    return torch.cat(outputs, dim=1), torch.cat(all_weights, dim=2) if all_weights else None


class _Functions:
    """Stands for `ALL_ATTENTION_FUNCTIONS` in a copied forward."""

    def __init__(self, functions: Any):
        self.functions = functions

    def get_interface(self, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        """The library's function of that name, wrapped by `attend`."""
        return functools.partial(attend, interface=self.functions.get_interface(name, default))


@functools.cache
def patched_attention(attention_class: type[nn.Module], forward: Callable[..., Any] | None = None) -> type[nn.Module]:
    """A subclass of `attention_class` whose forward meets `apply_features` and `attend`.

    Args:
        forward: a forward that does so itself; None copies that of the class.

    Raises:
        FamilyError: the forward does not use the two names that would be replaced.
    """
    name = "Longspan" + attention_class.__name__
    members = {"forward": forward or _copied_forward(attention_class), "__module__": __name__}
    made = type(name, (attention_class,), members)
    globals()[name] = made  # copies of a model in other processes find its classes by module and name
    return made


def _copied_forward(attention_class: type[nn.Module]) -> Callable[..., Any]:
    original = inspect.unwrap(attention_class.forward)
    needed = {"apply_rotary_pos_emb", "ALL_ATTENTION_FUNCTIONS"}
    missing = needed - set(original.__code__.co_names)
    if missing:
        name, lacks = attention_class.__name__, ", ".join(sorted(missing))
        raise FamilyError(f"{name} of this transformers version does not use {lacks}: it cannot be patched")
    scope = dict(original.__globals__)
    del scope["__name__"]  # torch.compile would look every global up in the module of that name, ours among them
    scope["apply_rotary_pos_emb"] = apply_features
    scope["ALL_ATTENTION_FUNCTIONS"] = _Functions(scope["ALL_ATTENTION_FUNCTIONS"])
    copied = types.FunctionType(
        original.__code__, scope, original.__name__, original.__defaults__, original.__closure__
    )
    copied.__kwdefaults__ = original.__kwdefaults__

    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, position_embeddings: Rotation, **kwargs: Any) -> Any:
        # cos and sin are only handed on to apply_rotary_pos_emb, so the module and the rotation can take their places
        rotation = for_cache(position_embeddings, *args, *kwargs.values())
        kwargs[ATTRIBUTE] = rotation
        return copied(self, *args, position_embeddings=(self, rotation), **kwargs)

    return forward
