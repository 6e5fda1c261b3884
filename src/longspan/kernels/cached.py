"""Causal attention of new tokens to a cache, block by block, without a mask of all queries and stored keys."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from longspan.kernels.blocks import Block, attend_block, merge_blocks

KEYS = 16384
"""Stored keys that are attended to at once; so many are repeated for the query heads that share them."""
QUERIES = 1024
"""Queries of a sliding window that are attended to at once."""


@torch.no_grad()
def cached_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    *,
    scaling: float,
    window: int | None = None,
) -> Float[Tensor, "B H T D"]:
    """Attention of the last T of S stored tokens to what is stored no later than themselves, without gradients.

    Args:
        window: nearest tokens that are seen, the query's own among them; None: all.
    """
    queries, keys, share = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    past = keys - queries

    def block(rows: slice, places: slice, causal: bool = False, seen: Tensor | None = None) -> Block:
        key, value = (x[:, :, places].repeat_interleave(share, dim=1) for x in (k, v))
        return attend_block(q[:, :, rows], key, value, causal=causal, seen=seen, scaling=scaling)

    if window is not None and window < keys:
        parts = []
        for start in range(0, queries, QUERIES):
            rows = slice(start, min(start + QUERIES, queries))
            places = slice(max(0, past + rows.start - window + 1), past + rows.stop)
            query, key = (torch.arange(r.start, r.stop, device=q.device) for r in (rows, places))
            distance = past + query[:, None] - key
            parts.append(block(rows, places, seen=((distance >= 0) & (distance < window))[None, None])[0])
        return torch.cat(parts, dim=2)
    everyone = slice(0, queries)
    output, logs = block(everyone, slice(past, keys), causal=True)
    whole: Block = output.to(logs.dtype), logs  # many blocks are added up: round once, at the end
    for start in range(0, past, KEYS):
        whole = merge_blocks(whole, block(everyone, slice(start, min(start + KEYS, past))))
    return whole[0].to(q.dtype)
