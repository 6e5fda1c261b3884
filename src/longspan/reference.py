"""The slow reference: the equation computed literally, term by term, in float64.

Every fast path and every patched model is compared with it; nothing else uses it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from longspan.equation import (
    Band,
    Method,
    Slots,
    Window,
    check_selection,
    check_shapes,
    check_window,
    fill_slots,
    initial_parameters,
)
from longspan.rotation import Layout, Start, join_pairs, split_pairs

Turn = Callable[[Tensor, Tensor], Tensor]
"""Features and rotation of `T D` by angles `T F`."""

EVERYTHING = Band(
    lambda i: torch.full_like(i, torch.iinfo(torch.long).min),
    lambda i: torch.full_like(i, torch.iinfo(torch.long).max),
    lambda i: i,
    lambda j: j,
)
"""What a method that leaves positions alone has: one band, all keys, each token where it stands."""


def reference_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S V"],
    *,
    methods: Sequence[Method] = (),
    window: Window | None = None,
    causal: bool = True,
    lengths: Sequence[int] | None = None,
    query_positions: Tensor | None = None,
    key_positions: Tensor | None = None,
    parameters: Mapping[str, Tensor] | None = None,
) -> Float64[Tensor, "B H T V"]:
    """The equation, term by term, in float64: the truth that every fast path is compared with.

    The T queries are the last T of the S tokens in storage order, and causality follows storage order, whatever the
    positions are. `lengths` gives the valid keys of each row of the batch; a query that sees no key returns zeros.
    Positions default to the storage index. Without a window nothing rotates.

    Raises:
        MethodError: head counts that do not divide, more queries than keys under `causal`, or a doubly filled slot.
    """
    batch, heads, queries, head_dim = q.shape
    key_heads, keys = k.shape[1], k.shape[2]
    check_shapes(q, k, causal)
    slots = fill_slots(methods)
    check_window(slots, window)
    check_selection(slots, causal)
    key_positions = torch.arange(keys) if key_positions is None else key_positions
    query_positions = key_positions[..., keys - queries :] if query_positions is None else query_positions
    query_positions, key_positions = (p.expand(batch, -1) for p in (query_positions, key_positions))
    rotary_dim = head_dim if window is None else window.rotary_dim
    layout: Layout = "half" if window is None else window.layout
    pairs = slots.rotary_dim(rotary_dim) // 2
    omega = torch.zeros(pairs, dtype=torch.float64) if window is None else slots.omega(window)
    start = None if window is None else slots.start(window)
    bands = (EVERYTHING,) if slots.bands is None or window is None else slots.bands.bands(window)
    parameters = initial_parameters(slots, key_heads, rotary_dim) if parameters is None else parameters
    q, k, v = q.double(), k.double(), v.double()
    output = q.new_zeros(batch, heads, queries, v.shape[-1])
    for b in range(batch):
        here, there = query_positions[b], key_positions[b]
        mine = [{name: value[g : g + 1].double() for name, value in parameters.items()} for g in range(key_heads)]
        query_of = functools.partial(_literal_query, slots=slots, rotary_dim=rotary_dim, layout=layout)
        keys_of = [
            functools.partial(_literal_key, slots=slots, rotary_dim=rotary_dim, layout=layout, parameters=mine[g])
            for g in range(key_heads)
        ]

        parts = []
        for band in bands:
            within = (there >= band.first(here)[:, None]) & (there <= band.last(here)[:, None])
            angles = _angles(band.query(here), omega, start), _angles(band.key(there), omega, start)
            parts.append((*_turned(q[b], k[b], query_of, keys_of, *angles), within))
        valid = torch.arange(keys) < (keys if lengths is None else lengths[b])
        covered = torch.stack([within for _, _, within in parts]).any(0)
        rule, routers = slots.region_rule(), parts[0][:2]
        if rule is not None and rule.turns_late:
            still = torch.zeros(keys, pairs, dtype=torch.float64)
            routers = _turned(q[b], k[b], query_of, keys_of, still[:queries], still)
        chosen = _rule(slots, *routers, causal, None if lengths is None else lengths[b])
        seen_by_head = valid & covered & chosen
        for h in range(heads):
            g = h * key_heads // heads
            logits = torch.zeros(queries, keys, dtype=torch.float64)
            for query, key, within in parts:
                logits = torch.where(within, query[h] @ key[g].T / math.sqrt(head_dim), logits)
            if rule is not None and rule.positions == "selected":
                angles_of_rank = _angles(there, omega, start)
                logits = _compact_dots(q[b, h], k[b, g], chosen[h], angles_of_rank, query_of, keys_of[g])
                logits = logits / math.sqrt(head_dim)
            if slots.scale is not None and window is not None:
                logits = logits * slots.scale.scale(window, query_positions[b])[:, None]
            if slots.bias is not None:
                distance = query_positions[b][:, None] - key_positions[b][None, :]
                logits = logits + slots.bias.bias(heads, distance)[h].double()
            seen = seen_by_head[h]
            some = seen.any(-1)
            weights = logits[some].masked_fill(~seen[some], -math.inf).softmax(-1)
            output[b, h, some] = weights @ v[b, g]
    return output


def _turned(
    q: Tensor, k: Tensor, query_of: Turn, keys_of: Sequence[Turn], query_angles: Tensor, key_angles: Tensor
) -> tuple[Tensor, Tensor]:
    """Rotated queries `H T W` and keys `G S W`."""
    key = [key_of(x, key_angles) for key_of, x in zip(keys_of, k, strict=True)]
    return torch.stack([query_of(x, query_angles) for x in q]), torch.stack(key)


def _compact_dots(q: Tensor, k: Tensor, seen: Tensor, angles: Tensor, turn_query: Turn, turn_key: Turn) -> Tensor:
    """<R phi(q), R psi(k)> `T S` where the r-th key that a query sees stands where the r-th token stands."""
    dots = torch.zeros(seen.shape, dtype=torch.float64)
    for row, keys in enumerate(seen):
        count = int(keys.sum())
        query = turn_query(q[row : row + 1], angles[count - 1 : count])
        dots[row, keys] = turn_key(k[keys], angles[:count]) @ query[0]
    return dots


def _rule(slots: Slots, query: Tensor, key: Tensor, causal: bool, length: int | None) -> Tensor:
    """S(i) of rotated queries `H T D` and keys `G S D`, as `H T S`."""
    (heads, queries, _), keys = query.shape, key.shape[1]
    if slots.selection is not None:
        return slots.selection.seen(query[None], key[None], None if length is None else [length])[0]
    every = torch.ones(heads, queries, keys, dtype=torch.bool)
    return every & (torch.arange(keys) <= torch.arange(keys - queries, keys)[:, None]) if causal else every


def _angles(positions: Tensor, omega: Tensor, start: Start | None) -> Tensor:
    """How far each pair has turned at each position, `T F`."""
    speed = omega.repeat(len(positions), 1)
    if start is not None:
        speed[positions < start.tokens] = start.omega
    return positions[:, None].double() * speed


def _turn(x: Tensor, angles: Tensor, layout: Layout) -> Tensor:
    """R(p, omega) as multiplication by e^{i p omega}: another road than `rotate_pairs`, for the reference only."""
    first, second = (x, torch.zeros_like(x)) if x.shape[-1] == angles.shape[-1] else split_pairs(x, layout)
    turned = torch.complex(first, second) * torch.exp(1j * angles)
    return join_pairs(turned.real, turned.imag, layout)


def _literal_query(q: Tensor, angles: Tensor, slots: Slots, rotary_dim: int, layout: Layout) -> Tensor:
    rotated, rest = q[:, :rotary_dim], q[:, rotary_dim:]
    if slots.feature is None:
        return torch.cat((_turn(rotated, angles, layout), rest), dim=-1)
    turned = slots.feature.query(rotated, lambda x: _turn(x, angles, layout), layout)
    return torch.cat((turned, rest), dim=-1)


def _literal_key(
    k: Tensor, angles: Tensor, slots: Slots, rotary_dim: int, layout: Layout, parameters: Mapping[str, Tensor]
) -> Tensor:
    rotated, rest = k[:, :rotary_dim], k[:, rotary_dim:]
    if slots.feature is not None:
        rotated = slots.feature.psi(rotated[None], layout, parameters)[0]
    return torch.cat((_turn(rotated, angles, layout), rest), dim=-1)
