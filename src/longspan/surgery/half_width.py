"""Decoding with half-width keys that turn late, by a kernel that writes no turned ones, where it can say the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from longspan.kernels.half_width import TOLERANCE, half_width_attention, key_turns
from longspan.surgery.rotary import Rotation
from longspan.surgery.site import Site, positions_of, split_key

FEW = 8
"""Queries of a step, at most: more of them are worth turned keys."""
FROM = 1 << 14
"""Keys of a row, over its heads, from which on a step is shorter without turned keys."""


def attend_to_half_width(
    site: Site,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    longspan: Rotation,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> Tensor | None:
    """What torch's SDPA gives on turned keys, `B T H W`; None where keys have to be turned for the library's function.

    That is so for every other attention implementation, gradients, compilers, many queries, masks that are not of true
    and false, and whatever else the library's SDPA would heed.

    Args:
        query: rotated, `B H T W`
        key: from the cache, un-rotated, with positions
    """
    if not site.turns_late(longspan) or site.slots.bias is not None or site.slots.selects(module.training):
        return None
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return None
    if getattr(module.config, "_attn_implementation", None) != "sdpa":
        return None
    if dropout or any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "cache")):
        return None
    queries, (batch, groups, keys, _) = query.shape[2], key.shape
    if queries > FEW or groups * keys < FROM or (mask is None and queries > 1):
        return None
    if mask is not None and (mask.dtype != torch.bool or mask.shape[1] > 1 or mask.shape[-1] < keys):
        return None
    pairs = site.slots.rotary_dim(site.rotary_dim) // 2
    t, digits, passing = split_key(key, query.shape[-1] - 2 * pairs)
    if t.shape[-1] != pairs or value.shape[-1] != query.shape[-1] or value.dtype not in TOLERANCE:
        return None
    seen = None if mask is None else mask[:, 0, :, :keys].expand(batch, -1, -1)
    known = keys, id(mask)
    if known not in longspan.key_turns:
        turns = key_turns(longspan.omega, positions_of(digits), seen, longspan.start)
        longspan.key_turns[known] = mask, turns
    output = half_width_attention(
        query, t, passing, value, longspan.key_turns[known][1],
        layout=site.layout, scaling=query.shape[-1] ** -0.5 if scaling is None else scaling, seen=seen,
    )  # fmt: skip
    return output.transpose(1, 2).contiguous()
