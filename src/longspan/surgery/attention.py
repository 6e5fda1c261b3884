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

from longspan.equation import Layout, Slots
from longspan.errors import FamilyError, MethodError
from longspan.kernels.dense import bias_blocks, pad_value, storage_order
from longspan.kernels.features import key_features, query_features, rotate_keys
from longspan.surgery.rotary import Rotation

ATTRIBUTE = "longspan"
"""Where an attention module keeps its `Site`, and under which name a `Rotation` travels to the attention function."""
BIAS_KERNELS = ("eager", "sdpa")
"""Attention implementations that take an additive bias."""
POSITION_COLUMNS = 3
"""Cached keys that need their position later carry it as digits of base 256, which every float type holds exactly."""


@dataclass(eq=False, slots=True)
class Site:
    """What one attention module needs at the place where q and k meet RoPE."""

    slots: Slots
    rotary_dim: int
    """R of the model: features act on these elements, the rest of a head passes."""
    layout: Layout
    parameters: tuple[str, ...] = ()
    """Names of the feature's learned tensors on the attention module."""

    @property
    def turns_late(self) -> bool:
        """Whether keys are cached un-rotated: the only way that cached keys follow changing frequencies."""
        return self.slots.follows_length()

    @property
    def keeps_positions(self) -> bool:
        """Whether the position of a cached key is needed again: any cache, hole or order of keys is then right."""
        return self.turns_late or self.slots.bias is not None


def apply_features(q: Tensor, k: Tensor, module: Any, rotation: Rotation) -> tuple[Tensor, Tensor]:
    """Stands for `apply_rotary_pos_emb`: features, rotation and temperature; late keys stay un-rotated.

    Args:
        q: `B H T D`
        k: `B G T D`
        module: the attention module, put into the place of cos by the patched forward
        rotation: put into the place of sin
    """
    site: Site = getattr(module, ATTRIBUTE)
    tables = (rotation.cos, rotation.sin)
    query = query_features(q, site.slots, site.rotary_dim, site.layout, tables, rotation.tau)
    parameters = {name: getattr(module, name) for name in site.parameters}
    key = key_features(k, site.slots, site.rotary_dim, site.layout, parameters)
    if not site.turns_late:
        key = rotate_keys(key, k.shape[-1] - site.rotary_dim, site.layout, tables, k.dtype)
    return query, with_positions(key, rotation.positions) if site.keeps_positions else key


def with_positions(key: Tensor, positions: Tensor) -> Tensor:
    """Keys `B G T W` with their positions `B T` behind them."""
    digits = torch.stack([positions >> shift & 255 for shift in (16, 8, 0)], dim=-1).to(key.dtype)
    return torch.cat((key, digits[:, None].expand(*key.shape[:-1], POSITION_COLUMNS)), dim=-1)


def without_positions(key: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `with_positions`."""
    digits = key[:, 0, :, -POSITION_COLUMNS:].long()
    # a kernel that takes a mask wants rows that start on an even address
    return key[..., :-POSITION_COLUMNS].contiguous(), (digits[..., 0] << 16) + (digits[..., 1] << 8) + digits[..., 2]


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
    """Stands for the library's attention function: turns late keys, adds the bias, then calls that very function."""
    site: Site = getattr(module, ATTRIBUTE)
    value, width = pad_value(query, value)
    if not site.keeps_positions:
        output, weights = interface(module, query, key, value, attention_mask, **kwargs)
        return output[..., :width], weights
    key, positions = without_positions(key)
    if site.turns_late:
        rest = query.shape[-1] - site.slots.rotary_dim(site.rotary_dim)
        key = rotate_keys(key, rest, site.layout, longspan.of_keys(positions), key.dtype)
    if site.slots.bias is None:
        output, weights = interface(module, query, key, value, attention_mask, **kwargs)
    else:
        attended = functools.partial(interface, module, **kwargs)
        output, weights = _with_bias(site, attended, query, key, value, attention_mask, longspan.positions, positions)
    return output[..., :width], weights


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
        kwargs[ATTRIBUTE] = position_embeddings
        return copied(self, *args, position_embeddings=(self, position_embeddings), **kwargs)

    name = "Longspan" + attention_class.__name__
    made = type(name, (attention_class,), {"forward": forward, "__module__": __name__})
    globals()[name] = made  # copies of a model in other processes find its classes by module and name
    return made
