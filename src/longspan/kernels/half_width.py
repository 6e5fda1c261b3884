"""Attention of a few new tokens to half-width keys `[t, 0]`, which turn while they are read: none is written turned.

With a query whose pairs are (a, b) after rotation, logit(n) = SUM_j t_nj (a_j cos(n w_j) + b_j sin(n w_j)). Where keys
stand one after another, a block of them that starts at n0 needs only cos and sin of the offsets 0 .. R-1: the query
turns back by n0 instead. So the tables are small whatever the length, and all heads, rows and layers share them. Keys
that stand anywhere else bring tables of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from longspan.kernels.blocks import Block, attend_block
from longspan.kernels.trust import trusted
from longspan.rotation import Layout, Start, rotation_tables, split_pairs

BLOCK = 1024
"""Keys of a block on processors: its tables stay in a cache."""
GPU_BLOCK = 64
"""Keys of a tile on a GPU."""
AT_ONCE = 4096
"""Keys that are turned at once where torch's own operators do it: few calls, and a temporary that stays in a cache."""
WORTH = 1 << 18
"""Keys, over rows and heads, from which on a step saves enough to wait for a compiler once."""
COMPILED, TRITON = "attention to half-width keys (torch.compile)", "attention to half-width keys (Triton)"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 4e-3}
"""How far a fast kernel may be from the plain one, relative to the largest output; also the dtypes that are taken."""


class KeyTurns(NamedTuple):
    """How far the keys of a pass turn, in float32."""

    block: int
    """Keys of a block, R."""
    back: tuple[Tensor, Tensor] | None
    """cos and sin `B N F` by which queries turn back for each block of keys; None: keys have tables of their own."""
    tables: tuple[Tensor, Tensor]
    """cos and sin of the offsets inside a block, `1|B R F`; or of all keys, `B S F`."""


@torch.no_grad()
def key_turns(omega: Tensor, positions: Tensor, seen: Tensor | None, start: Start | None) -> KeyTurns:
    """Turns of keys at `positions`, the short way where the keys that are seen stand one after another in each row.

    Args:
        omega: `F`, or `B F`
        positions: `B S`
        seen: `B 1|T S`, or None where all are
        start: positions that turn at a speed of their own: then scores are not relative, and no query can turn back
    """
    block = GPU_BLOCK if _on_gpu(positions) else BLOCK
    order = torch.arange(positions.shape[-1], device=positions.device)
    first = positions - order
    low, high = first, first
    if seen is not None:
        visible, most = seen.any(1), torch.iinfo(first.dtype).max
        low, high = first.masked_fill(~visible, most), first.masked_fill(~visible, -most)
    low, high = low.amin(-1), high.amax(-1)
    if start is not None or bool((low < high).any()):
        return KeyTurns(block, None, rotation_tables(omega, positions, torch.float32, start))
    low = low.where(low == high, 0)  # a row that sees nothing
    back = rotation_tables(omega, low[:, None] + order[::block], torch.float32)
    return KeyTurns(block, back, rotation_tables(omega, order[None, :block], torch.float32))


@torch.no_grad()
def half_width_attention(
    q: Tensor,
    t: Tensor,
    passing: Tensor,
    v: Tensor,
    turns: KeyTurns,
    *,
    layout: Layout,
    scaling: float,
    seen: Tensor | None = None,
) -> Tensor:
    """`B H T W` of attention in float32, rounded once at the end; a query that sees no key gets zeros. No gradients.

    Args:
        q: rotated queries `B H T W`, W = 2F + P
        t: `B G S F`, first members of the un-rotated keys' pairs, the second being 0
        passing: `B G S P`, what is behind the pairs
        v: `B G S W`
        seen: `B 1|T S`
    """
    heads, queries, groups = q.shape[1], q.shape[2], t.shape[1]
    share = heads // groups
    rows = q.unflatten(1, (groups, share)).flatten(2, 3).float()
    pairs = 2 * t.shape[-1]
    query = torch.cat((*split_pairs(rows[..., :pairs], layout), rows[..., pairs:]), dim=-1)
    if seen is not None and seen.shape[1] > 1:
        seen = seen.repeat(1, share, 1)
    output = merge_stretches(*_kernel(query, t, passing, v, turns, seen)(query, t, passing, v, turns, scaling, seen))
    return output.unflatten(2, (share, queries)).flatten(1, 2).to(q.dtype)


def merge_stretches(outputs: Tensor, logs: Tensor) -> Tensor:
    """`B G M V` from outputs `B G C M V` and logarithms `B G C M` of C stretches of the keys."""
    weights = (logs - logs.logsumexp(2, keepdim=True)).exp().nan_to_num()
    return (outputs * weights[..., None]).sum(2)


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, KeyTurns, float, Tensor | None], Block]
"""query `B G M W` in float32, first members of pairs before second ones, t, passing, v, turns, scaling, seen
`B 1|M S` -> outputs `B G C M V` and logarithms `B G C M` of stretches."""


def _kernel(query: Tensor, t: Tensor, passing: Tensor, v: Tensor, turns: KeyTurns, seen: Tensor | None) -> Kernel:
    """The fastest kernel that has proved itself for such tensors."""
    fast: tuple[str, Kernel]
    if _on_gpu(t):
        fast = TRITON, in_registers
    elif t.device.type == "cpu" and t.shape[:3].numel() >= WORTH and t.shape[2] >= 2 * BLOCK:
        fast = COMPILED, compiled
    else:
        return in_blocks
    situation = (
        str(t.device), t.dtype, tuple(x.shape[-1] for x in (t, passing, v)), query.shape[2], t.shape[1] == 1,
        t.shape[0] == 1, turns.back is None, seen is None,
    )  # fmt: skip
    check = functools.partial(_fault, fast[1], query, t, passing, v, turns, seen)
    return fast[1] if trusted(fast[0], situation, check, instead="attention in blocks") else in_blocks


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def _fault(
    kernel: Kernel, query: Tensor, t: Tensor, passing: Tensor, v: Tensor, turns: KeyTurns, seen: Tensor | None
) -> str | None:
    """What speaks against a kernel, on the first keys of the very tensors it is wanted for."""
    count = min(t.shape[2], 5 * turns.block + 3)
    t, passing, v = (x[:2, :2, :count] for x in (t, passing, v))
    back = None if turns.back is None else tuple(x[:2, : -(-count // turns.block)] for x in turns.back)
    tables = tuple(x[:2] if turns.back is not None else x[:2, :count] for x in turns.tables)
    seen = None if seen is None else seen[:2, :, :count]
    query = query[:2, :2]
    # logits of 4 at most, whatever the model's are: larger ones make much of bf16's rounding
    scaling = 4 / max(1e-30, float(query.norm(dim=-1).max() * torch.cat((t, passing), -1).float().norm(dim=-1).max()))
    given = (query, t, passing, v, KeyTurns(turns.block, back, tables), scaling, seen)  # type: ignore[arg-type]
    found, expected = (merge_stretches(*one(*given)) for one in (kernel, in_blocks))
    sound = expected.isfinite()  # a model that gives NaN says nothing about the kernel
    if not sound.any():
        return None
    error = float((found - expected)[sound].abs().max())
    allowed = TOLERANCE[t.dtype] * float(expected[sound].abs().max())
    return None if error <= allowed else f"off by {error:.2g} where {allowed:.2g} is rounding"


def in_registers(
    query: Tensor, t: Tensor, passing: Tensor, v: Tensor, turns: KeyTurns, scaling: float, seen: Tensor | None
) -> Block:
    """On a GPU: one Triton kernel."""
    if find_spec("triton") is None:
        raise ImportError("triton is not installed")
    from longspan.kernels.half_width_triton import stretches  # triton is not everywhere

    back = None if turns.back is None else torch.stack(turns.back)
    cos, sin = (table.contiguous() for table in turns.tables)
    t, passing, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (t, passing, v))
    return stretches(query, t, passing, v, back, cos, sin, None if seen is None else seen.contiguous(), scaling)


def in_blocks(
    query: Tensor, t: Tensor, passing: Tensor, v: Tensor, turns: KeyTurns, scaling: float, seen: Tensor | None
) -> Block:
    """Anywhere: a few blocks of keys are turned into a temporary, which torch's own kernel attends to."""
    batch, heads, rows, _ = query.shape
    count = -(-t.shape[2] // turns.block)
    outputs = query.new_empty(batch, heads, count, rows, v.shape[-1])
    logs = query.new_empty(batch, heads, count, rows)
    pairs = t.shape[-1]
    queries = _turned_back(query, turns, pairs).transpose(2, 3)
    for blocks, places, size in _spans(t.shape[2], turns.block):
        several = max(1, AT_ONCE // (places.stop - places.start))
        for row in range(batch):
            cos, sin = (_blocks_of(table, row, places, size, turns) for table in turns.tables)
            mask = None if seen is None else seen[row, :, places].unflatten(1, (-1, size)).transpose(0, 1)[None]
            for first in range(0, heads, several):
                own = (row, slice(first, first + several), places)
                x = t[own].unflatten(1, (-1, size))
                key = query.new_empty(*x.shape[:-1], query.shape[-1])
                torch.mul(x, cos, out=key[..., :pairs])
                torch.mul(x, sin, out=key[..., pairs : 2 * pairs])
                key[..., 2 * pairs :] = passing[own].unflatten(1, (-1, size))
                value = v[own].unflatten(1, (-1, size)).float()
                asked = queries[row, own[1], blocks if queries.shape[2] > 1 else slice(None)]
                asked = asked.expand(*x.shape[:2], -1, -1)
                found, log = attend_block(asked, key, value, seen=mask, scaling=scaling)
                outputs[row, own[1], blocks], logs[row, own[1], blocks] = found, log.to(logs.dtype)
    return outputs, logs


def compiled(
    query: Tensor, t: Tensor, passing: Tensor, v: Tensor, turns: KeyTurns, scaling: float, seen: Tensor | None
) -> Block:
    """On processors: one loop over whole blocks that torch.compile makes; the keys behind them by torch's operators."""
    whole = t.shape[2] // turns.block * turns.block
    front, behind = slice(0, whole), slice(whole, None)
    count, pairs = whole // turns.block, t.shape[-1]
    queries = _turned_back(query * scaling, turns, pairs)
    queries = queries[..., :count, :] if turns.back is not None else queries

    def blocks(x: Tensor) -> Tensor:
        return x[:, :, front].unflatten(2, (count, turns.block))

    extra = None
    if passing.shape[-1]:
        still = query[..., 2 * pairs :] * scaling
        extra = blocks((still @ passing[:, :, front].float().transpose(-1, -2)).transpose(-1, -2)).movedim(-1, 2)
    if seen is not None:
        hidden = torch.zeros_like(seen[..., front], dtype=torch.float32).masked_fill(~seen[..., front], -torch.inf)
        hidden = hidden.unflatten(-1, (count, turns.block))[:, None]
        extra = hidden if extra is None else extra + hidden
    tables = turns.tables
    if turns.back is None:
        tables = tuple(x[:, front].unflatten(1, (count, turns.block)) for x in tables)
    cos, sin = (x[:, None, None] if turns.back is None else x[:, None, None, None] for x in tables)
    found = _fused()(queries[..., :pairs], queries[..., pairs : 2 * pairs], blocks(t), cos, sin, blocks(v), extra)
    outputs, logs = (x.transpose(2, 3) for x in found)
    if whole == t.shape[2]:
        return outputs, logs
    rest = _behind(turns, whole)
    last = in_blocks(
        query, t[:, :, behind], passing[:, :, behind], v[:, :, behind], rest, scaling,
        None if seen is None else seen[..., behind],
    )  # fmt: skip
    return torch.cat((outputs, last[0]), dim=2), torch.cat((logs, last[1]), dim=2)


@functools.cache
def _fused() -> Callable[..., Block]:
    return torch.compile(_block_attention, dynamic=True, fullgraph=True)


def _block_attention(
    first: Tensor, second: Tensor, t: Tensor, cos: Tensor, sin: Tensor, v: Tensor, extra: Tensor | None
) -> Block:
    """Output `B G M N V` and logarithm `B G M N` of each block, for t `B G N R F` and queries `B G M N|1 F`."""
    logits = (t.float()[:, :, None] * (first[..., None, :] * cos + second[..., None, :] * sin)).sum(-1)
    if extra is not None:
        logits = logits + extra
    largest = logits.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    weights = (logits - largest).exp()
    total = weights.sum(-1)
    output = (weights[..., None] * v.float()[:, :, None]).sum(-2)
    return output / total.clamp(min=1e-30)[..., None], largest[..., 0] + total.log()


def _turned_back(query: Tensor, turns: KeyTurns, pairs: int) -> Tensor:
    """Queries for each block, `B G M N W`; N is 1 where all blocks have the same."""
    query = query[..., None, :]
    if turns.back is None:
        return query
    cos, sin = (x[:, None, None] for x in turns.back)
    first, second, passing = query.tensor_split((pairs, 2 * pairs), dim=-1)
    passing = passing.expand(*passing.shape[:3], cos.shape[3], -1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin, passing), dim=-1)


def _spans(keys: int, block: int) -> Iterator[tuple[slice, slice, int]]:
    """Numbers of the blocks, places of their keys, and keys of a block: whole blocks first, then the last keys."""
    whole, step = keys // block, max(1, AT_ONCE // block)
    for start in range(0, whole, step):
        end = min(start + step, whole)
        yield slice(start, end), slice(start * block, end * block), block
    if keys % block:
        yield slice(whole, whole + 1), slice(whole * block, keys), keys % block


def _blocks_of(table: Tensor, row: int, places: slice, size: int, turns: KeyTurns) -> Tensor:
    """The table for keys `g n size F` of a row."""
    own = table[row if len(table) > 1 else 0]
    return own[places].unflatten(0, (-1, size)) if turns.back is None else own[:size]


def _behind(turns: KeyTurns, whole: int) -> KeyTurns:
    """Turns of the keys behind the first `whole`."""
    if turns.back is None:
        cos, sin = turns.tables
        return turns._replace(tables=(cos[:, whole:], sin[:, whole:]))
    cos, sin = turns.back
    return turns._replace(back=(cos[:, whole // turns.block :], sin[:, whole // turns.block :]))
