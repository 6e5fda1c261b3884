"""Dense attention on torch's SDPA: features and rotation in front of one call, bias added in blocks of queries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from longspan.equation import (
    Method,
    PartSelection,
    Slots,
    Window,
    check_selection,
    check_shapes,
    check_window,
    fill_slots,
    initial_parameters,
)
from longspan.errors import MethodError
from longspan.kernels.banded import banded_attention, turns
from longspan.kernels.features import (
    key_features,
    late_turn,
    query_features,
    rotate_keys,
    still_queries,
    turned_keys,
)
from longspan.kernels.region_attention import choose_regions, region_attention
from longspan.rotation import Layout, rotation_tables

BIAS_ELEMENTS = 1 << 24
"""Elements of a bias that exist at once (64 MB in float32): what makes ALiBi linear in memory."""


def attention(
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
) -> Float[Tensor, "B H T V"]:
    """The equation in the dtype of q, on SDPA; arguments and errors as `reference_attention`."""
    check_shapes(q, k, causal)
    slots = fill_slots(methods)
    check_selection(slots, causal)
    queries, keys = q.shape[2], k.shape[2]
    key_positions = torch.arange(keys, device=q.device) if key_positions is None else key_positions
    query_positions = key_positions[..., keys - queries :] if query_positions is None else query_positions
    query_positions, key_positions = (p.expand(q.shape[0], -1) for p in (query_positions, key_positions))
    scaling = 1 / math.sqrt(q.shape[-1])
    if slots.bands is not None:
        return _banded(q, k, v, slots, window, query_positions, key_positions, parameters, lengths, causal)
    if slots.region_rule() is not None:
        return _in_regions(q, k, v, slots, window, query_positions, key_positions, parameters, lengths)
    q, k = _rotated(q, k, slots, window, query_positions, key_positions, parameters)
    if isinstance(slots.selection, PartSelection):
        return _selected(slots.selection, q, k, v, lengths, scaling)
    seen = _seen(q.shape[0], queries, keys, causal, lengths, q.device)
    if slots.bias is None:
        return _sdpa(q, k, v, seen, causal and seen is None, scaling)
    if seen is None:
        seen = storage_order(queries, keys, q.device)[None, None] if causal else None
    blocks = []
    for rows, bias in bias_blocks(slots, q.shape[1], query_positions, key_positions):
        mask = bias if seen is None else bias.masked_fill(~seen[:, :, rows], -math.inf)
        blocks.append(_sdpa(q[:, :, rows], k, v, mask.to(q.dtype), False, scaling))
    return torch.cat(blocks, dim=2)


def _rotated(
    q: Tensor,
    k: Tensor,
    slots: Slots,
    window: Window | None,
    query_positions: Tensor,
    key_positions: Tensor,
    parameters: Mapping[str, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    check_window(slots, window)
    rotary_dim = q.shape[-1] if window is None else window.rotary_dim
    layout: Layout = "half" if window is None else window.layout
    still = torch.zeros(slots.rotary_dim(rotary_dim) // 2, dtype=torch.float64)
    omega = (still if window is None else slots.omega(window)).to(q.device)
    start = None if window is None else slots.start(window)
    parameters = initial_parameters(slots, k.shape[1], rotary_dim) if parameters is None else parameters
    wide_dtype = torch.promote_types(q.dtype, torch.float32)
    tau = None
    if slots.scale is not None and window is not None:
        tau = slots.scale.scale(window, query_positions).to(wide_dtype)
    tables = rotation_tables(omega, query_positions, wide_dtype, start)
    query = query_features(q, slots, rotary_dim, layout, tables, tau)
    tables = rotation_tables(omega, key_positions, wide_dtype, start)
    if not slots.follows_length():
        return query, turned_keys(k, slots, rotary_dim, layout, parameters, tables)
    key = key_features(k, slots, rotary_dim, layout, parameters, stored=True)
    return query, rotate_keys(key, k.shape[-1] - rotary_dim, layout, tables, k.dtype)


def _banded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slots: Slots,
    window: Window | None,
    query_positions: Tensor,
    key_positions: Tensor,
    parameters: Mapping[str, Tensor] | None,
    lengths: Sequence[int] | None,
    causal: bool,
) -> Tensor:
    check_window(slots, window)
    assert window is not None
    parameters = initial_parameters(slots, k.shape[1], window.rotary_dim) if parameters is None else parameters
    share = q.shape[1] // k.shape[1]
    key = key_features(k, slots, window.rotary_dim, window.layout, parameters, stored=True)
    tau = None
    if slots.scale is not None:
        tau = slots.scale.scale(window, query_positions).to(torch.promote_types(q.dtype, torch.float32))
    seen = None
    if lengths is not None:
        seen = torch.arange(k.shape[2], device=q.device) < torch.tensor(lengths, device=q.device)[:, None]
        seen = seen[:, None]
    turn_query, turn_key = turns(
        slots, window.rotary_dim, window.layout, slots.omega(window).to(q.device), k.shape[-1] - window.rotary_dim
    )
    assert slots.bands is not None
    value, width = pad_value(q, v)
    output = banded_attention(
        q,
        key.repeat_interleave(share, dim=1),
        value.repeat_interleave(share, dim=1),
        slots.bands.bands(window),
        turn_query,
        turn_key,
        query_positions=query_positions,
        key_positions=key_positions,
        seen=seen,
        tau=tau,
        causal=causal,
        scaling=1 / math.sqrt(q.shape[-1]),
    )
    return output[..., :width]


def _in_regions(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slots: Slots,
    window: Window | None,
    query_positions: Tensor,
    key_positions: Tensor,
    parameters: Mapping[str, Tensor] | None,
    lengths: Sequence[int] | None,
) -> Tensor:
    check_window(slots, window)
    rule, name = slots.region_rule(), type(slots.selection).__name__
    assert rule is not None
    queries, keys, scaling = q.shape[2], k.shape[2], 1 / math.sqrt(q.shape[-1])
    if queries < keys and keys > rule.sizes.front:
        raise MethodError(f"{name} chooses keys by earlier queries: give those of all {keys} tokens, not of {queries}")
    turn = None
    if window is None or not rule.turns_late:
        rule = rule._replace(positions="all")
        query, key = _rotated(q, k, replace(slots, scale=None), window, query_positions, key_positions, parameters)
    else:
        if not torch.equal(query_positions, key_positions[:, keys - queries :]):
            raise MethodError(f"{name}(positions='{rule.positions}') needs queries that stand where their keys stand")
        parameters = initial_parameters(slots, k.shape[1], window.rotary_dim) if parameters is None else parameters
        turn = late_turn(
            slots.omega(window).to(q.device), k.shape[-1] - window.rotary_dim, window.layout, slots.start(window)
        )
        query = still_queries(q, slots, window.rotary_dim, window.layout)
        key = key_features(k, slots, window.rotary_dim, window.layout, parameters, stored=True)
    tau = None
    if slots.scale is not None and window is not None:
        tau = slots.scale.scale(window, query_positions).to(torch.promote_types(q.dtype, torch.float32))
    wide = q.shape[-1] if window is None else slots.rotary_dim(window.rotary_dim) + q.shape[-1] - window.rotary_dim
    value = functional.pad(v, (0, max(0, wide - v.shape[-1])))
    output = region_attention(
        query,
        key,
        value,
        rule,
        regions=choose_regions(query, key, rule, turn, lengths),
        turn=turn,
        positions=key_positions,
        tau=tau,
        lengths=lengths,
        scaling=scaling,
    )
    return output[..., : v.shape[-1]]


def _selected(
    selection: PartSelection, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int] | None, scaling: float
) -> Tensor:
    """Attention to the selected keys; queries that are missing in front are filled in, since parts have both."""
    missing = k.shape[2] - q.shape[2]
    q = functional.pad(q, (0, 0, missing, 0))
    seen = _seen(q.shape[0], q.shape[2], k.shape[2], True, lengths, q.device)

    def part(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return _sdpa(q, k, v, mask, mask is None, scaling)

    return selection.attend(part, q, k, v, seen)[:, :, missing:]


def storage_order(queries: int, keys: int, device: torch.device, *, aligned_at_end: bool = True) -> Tensor:
    """True where the key is stored no later than the query, `T S`; queries are the last keys or the first."""
    first = keys - queries if aligned_at_end else 0
    return torch.arange(keys, device=device) <= torch.arange(first, first + queries, device=device)[:, None]


def _seen(
    batch: int, queries: int, keys: int, causal: bool, lengths: Sequence[int] | None, device: torch.device
) -> Tensor | None:
    """`B 1 T S` of what each query may see, or None where SDPA's own causal rule (or none at all) says it."""
    if lengths is None and (not causal or queries == keys):
        return None
    seen = storage_order(queries, keys, device) if causal else torch.ones(queries, keys, dtype=torch.bool)
    seen = seen.to(device).expand(batch, 1, queries, keys)
    if lengths is not None:
        valid = torch.arange(keys, device=device) < torch.tensor(lengths, device=device)[:, None]
        seen = seen & valid[:, None, None, :]
    return seen


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scaling: float) -> Tensor:
    value, width = pad_value(q, v)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, value = k.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    output = functional.scaled_dot_product_attention(q, k, value, attn_mask=mask, is_causal=is_causal, scale=scaling)
    if mask is not None:
        hidden = ~mask.any(-1, keepdim=True) if mask.dtype == torch.bool else mask.isneginf().all(-1, keepdim=True)
        output = output.masked_fill(hidden, 0.0)  # a query that sees no key
    return output[..., :width]


def pad_value(q: Tensor, v: Tensor) -> tuple[Tensor, int]:
    """v widened with zeros to the width of q, and its own width.

    Flash kernels want q, k and v equally wide; without this a wider feature falls back to an N x N matrix.
    """
    width = v.shape[-1]
    return (functional.pad(v, (0, q.shape[-1] - width)) if q.shape[-1] > width else v), width


def bias_blocks(
    slots: Slots, heads: int, query_positions: Tensor, key_positions: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of queries and their bias `B H t S`, each of a bounded number of elements.

    Args:
        query_positions: `B T`
        key_positions: `B S`
    """
    assert slots.bias is not None
    queries, keys = query_positions.shape[-1], key_positions.shape[-1]
    step = max(1, BIAS_ELEMENTS // (heads * keys * query_positions.shape[0]))
    for start in range(0, queries, step):
        rows = slice(start, min(start + step, queries))
        distance = query_positions[:, rows, None] - key_positions[:, None, :]
        yield rows, slots.bias.bias(heads, distance)
