"""Attention in bands in the place of the library's attention function."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional

from longspan.errors import MethodError
from longspan.kernels.banded import banded_attention, turns
from longspan.surgery.rotary import Rotation
from longspan.surgery.site import Site, seen_by_mask, without_positions


def attend_in_bands(
    site: Site,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    longspan: Rotation,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> Tensor:
    """`B T H V`: every band turns queries and keys anew, so no function of the library is asked."""
    assert site.slots.bands is not None
    name = type(site.slots.bands).__name__
    if dropout:
        raise MethodError(f"{name} knows no dropout of attention: set attention_dropout to 0 in the model's config")
    if mask is not None and not isinstance(mask, Tensor):
        raise MethodError(f"{name} takes the masks of eager and sdpa attention: use one of them")
    rest = query.shape[-1] - site.rotary_dim
    key, positions = without_positions(key, rest)
    queries, share = query.shape[2], query.shape[1] // key.shape[1]
    if mask is None and queries > 1:  # causal, from the first stored key on; what a fixed cache has not filled is left
        key, value, positions = key[:, :, :queries], value[:, :, :queries], positions[:, :queries]
    seen = None if mask is None else seen_by_mask(mask[..., : key.shape[2]])[:, 0]
    width = site.slots.rotary_dim(site.rotary_dim) + rest
    turn_query, turn_key = turns(site.slots, site.rotary_dim, site.layout, longspan.omega, rest)
    output = banded_attention(
        query,
        key.repeat_interleave(share, dim=1),
        functional.pad(value, (0, width - value.shape[-1])).repeat_interleave(share, dim=1),
        longspan.bands,
        turn_query,
        turn_key,
        query_positions=longspan.positions.expand(len(query), -1),
        key_positions=positions.expand(len(query), -1),
        seen=None if seen is None else seen.expand(len(query), -1, -1),
        tau=None if longspan.tau is None else longspan.tau.expand(len(query), -1),
        causal=mask is None and queries > 1,
        scaling=1 / math.sqrt(query.shape[-1]) if scaling is None else scaling,
        softcap=softcap,
    )
    return output[..., : value.shape[-1]].transpose(1, 2)
