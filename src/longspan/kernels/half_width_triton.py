"""Attention of a few queries to half-width keys on a GPU: split over the length, keys turned in registers.

One program has one row, one key head with all query heads that share it, and one stretch of the length. It reads t and
v once, and leaves an output and the logarithm of its weights' sum; `half_width.merge_stretches` merges stretches.
"""

from __future__ import annotations

import os
import typing
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64
"""Keys of a tile; as many offsets have a table of their own."""
PROGRAMS = 512
"""Programs that are wanted at least, some for each multiprocessor."""
LEAST = 16
"""The least size of a matrix product in triton."""
PRODUCTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
"""What the factors of a product are rounded to."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter multiplies matrices of bfloat16 as if they were whole numbers: it gets float32."""


@triton.jit
@typing.no_type_check
def _stretch(
    q_ptr, t_ptr, passing_ptr, v_ptr, back_ptr, cos_ptr, sin_ptr, seen_ptr, output_ptr, log_ptr,
    heads, rows, keys, tiles, tiles_each, scaling,
    t_batch, t_head, passing_batch, passing_head, v_batch, v_head, back_part, back_batch, table_batch,
    seen_batch, seen_row,
    PAIRS: tl.constexpr, PASSING: tl.constexpr, WIDTH: tl.constexpr,
    T_ROW: tl.constexpr, PASSING_ROW: tl.constexpr, V_ROW: tl.constexpr,
    ROWS: tl.constexpr, F: tl.constexpr, P: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr,
    TURN_BACK: tl.constexpr, MASKED: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Capitals say how wide a register tile is, a power of 2; PAIRS, PASSING and WIDTH how much of it is used."""
    own, stretch, stretches = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    batch, head = (own // heads).to(tl.int64), (own % heads).to(tl.int64)
    row, place, pair = tl.arange(0, ROWS), tl.arange(0, BLOCK), tl.arange(0, F)
    value_column = tl.arange(0, V)
    query = q_ptr + (own * rows + row[:, None]).to(tl.int64) * (2 * PAIRS + PASSING)
    real = (row[:, None] < rows) & (pair[None, :] < PAIRS)
    first = tl.load(query + pair[None, :], mask=real, other=0.0)
    second = tl.load(query + PAIRS + pair[None, :], mask=real, other=0.0)
    still = first
    if PASSING > 0:
        other = tl.arange(0, P)
        real = (row[:, None] < rows) & (other[None, :] < PASSING)
        still = tl.load(query + 2 * PAIRS + other[None, :], mask=real, other=0.0)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    output = tl.zeros((ROWS, V), tl.float32)
    for tile in range(stretch * tiles_each, tl.minimum((stretch + 1) * tiles_each, tiles)):
        key = tile * BLOCK + place
        inside = key < keys
        t_place = t_ptr + batch * t_batch + head * t_head + key[:, None].to(tl.int64) * T_ROW + pair[None, :]
        t = tl.load(t_place, mask=inside[:, None] & (pair[None, :] < PAIRS), other=0.0).to(tl.float32)
        if TURN_BACK:
            back = back_ptr + batch * back_batch + tile * PAIRS + pair
            back_cos = tl.load(back, mask=pair < PAIRS, other=1.0)[None, :]
            back_sin = tl.load(back + back_part, mask=pair < PAIRS, other=0.0)[None, :]
            along, across = first * back_cos + second * back_sin, second * back_cos - first * back_sin
            angle, known = place, pair[None, :] < PAIRS
        else:
            along, across = first, second
            angle, known = key, inside[:, None] & (pair[None, :] < PAIRS)
        table = batch * table_batch + angle[:, None].to(tl.int64) * PAIRS + pair[None, :]
        cos = tl.load(cos_ptr + table, mask=known, other=0.0)
        sin = tl.load(sin_ptr + table, mask=known, other=0.0)
        logits = tl.dot(along.to(DOT), tl.trans((t * cos).to(DOT)), input_precision=PRECISION)
        logits += tl.dot(across.to(DOT), tl.trans((t * sin).to(DOT)), input_precision=PRECISION)
        if PASSING > 0:
            passing_place = passing_ptr + batch * passing_batch + head * passing_head + other[None, :]
            passing_place += key[:, None].to(tl.int64) * PASSING_ROW
            passing = tl.load(passing_place, mask=inside[:, None] & (other[None, :] < PASSING), other=0.0)
            logits += tl.dot(still.to(DOT), tl.trans(passing.to(DOT)), input_precision=PRECISION)
        visible = (row[:, None] < rows) & inside[None, :]
        if MASKED:
            seen = seen_ptr + batch * seen_batch + row[:, None] * seen_row + key[None, :]
            visible = visible & (tl.load(seen, mask=visible, other=0) != 0)
        logits = tl.where(visible, logits * scaling, float("-inf"))
        larger = tl.maximum(largest, tl.max(logits, 1))
        floor = tl.where(larger == float("-inf"), 0.0, larger)  # a row that has seen no key yet
        weights, kept = tl.exp(logits - floor[:, None]), tl.exp(largest - floor)
        v_place = v_ptr + batch * v_batch + head * v_head + key[:, None].to(tl.int64) * V_ROW + value_column[None, :]
        v = tl.load(v_place, mask=inside[:, None] & (value_column[None, :] < WIDTH), other=0.0)
        output = output * kept[:, None] + tl.dot(weights.to(DOT), v.to(DOT), input_precision=PRECISION)
        total = total * kept + tl.sum(weights, 1)
        largest = larger
    blind = total == 0.0
    output = output / tl.where(blind, 1.0, total)[:, None]
    log = tl.where(blind, float("-inf"), largest + tl.log(tl.where(blind, 1.0, total)))
    slot = ((own * stretches + stretch) * rows + row).to(tl.int64)
    tl.store(log_ptr + slot, log, mask=row < rows)
    real = (row[:, None] < rows) & (value_column[None, :] < WIDTH)
    tl.store(output_ptr + slot[:, None] * WIDTH + value_column[None, :], output, mask=real)


def stretches(
    q: Tensor,
    t: Tensor,
    passing: Tensor,
    v: Tensor,
    back: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    seen: Tensor | None,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Outputs `B G C M V` and logarithms `B G C M` of C stretches of the keys, float32.

    Args:
        q: rotated queries `B G M W`: first members of the pairs, second members, what passes.
        t: `B G S F`, passing: `B G S P`, v: `B G S V`; each row in one piece.
        back: cos and sin `2 B N F` by which queries turn back for each tile; None: tables of all keys.
        cos: and sin, `1|B R F` of the offsets in a tile, or `B S F`; float32, contiguous.
        seen: `B 1|M S`.
    """
    (batch, heads, rows, _), keys, pairs, width = q.shape, t.shape[2], t.shape[-1], v.shape[-1]
    tiles = triton.cdiv(keys, BLOCK)
    count = min(tiles, max(1, triton.cdiv(PROGRAMS, batch * heads)))
    each = triton.cdiv(tiles, count)
    count = triton.cdiv(tiles, each)
    output = torch.empty(batch, heads, count, rows, width, dtype=torch.float32, device=q.device)
    logs = torch.empty(batch, heads, count, rows, dtype=torch.float32, device=q.device)
    settings: dict[str, Any] = {
        "PAIRS": pairs,
        "PASSING": passing.shape[-1],
        "WIDTH": width,
        "T_ROW": t.stride(2),
        "PASSING_ROW": passing.stride(2) if passing.shape[-1] else 0,
        "V_ROW": v.stride(2),
        "ROWS": max(LEAST, triton.next_power_of_2(rows)),
        "F": max(LEAST, triton.next_power_of_2(pairs)),
        "P": max(LEAST, triton.next_power_of_2(max(1, passing.shape[-1]))),
        "V": max(LEAST, triton.next_power_of_2(width)),
        "BLOCK": BLOCK,
        "TURN_BACK": back is not None,
        "MASKED": seen is not None,
        "DOT": tl.float32 if INTERPRETED else PRODUCTS[v.dtype],
        "PRECISION": "ieee",
    }
    nothing = cos  # a pointer that is not read
    _stretch[(batch * heads, count)](
        q.float().contiguous(), t, passing if passing.shape[-1] else nothing, v,
        nothing if back is None else back, cos, sin, nothing if seen is None else seen.view(torch.uint8), output, logs,
        heads, rows, keys, tiles, each, scaling,
        t.stride(0), t.stride(1), passing.stride(0), passing.stride(1), v.stride(0), v.stride(1),
        0 if back is None else back.stride(0), 0 if back is None else back.stride(1), _row_stride(cos),
        0 if seen is None else _row_stride(seen), 0 if seen is None or seen.shape[1] == 1 else seen.stride(1),
        **settings,
    )  # fmt: skip
    return output, logs


def _row_stride(x: Tensor) -> int:
    return 0 if x.shape[0] == 1 else x.stride(0)
