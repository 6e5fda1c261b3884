"""The groups of select-and-merge behind its front, a few at a time: their keys are gathered, attended to and let go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longspan.errors import MethodError
from longspan.kernels.blocks import attend_block, block_gradients, merge_blocks
from longspan.regions import Sizes

QUERIES, KEYS = 1024, 16384
"""Small groups are taken together, side by side as if they were heads, until they have as many queries or keys."""

Turn = Callable[[Tensor, int], Tensor]
"""Rotates `... T W` whose first token stands at the given position."""


class RoutedGroups(torch.autograd.Function):
    """Output `B H T-front V` of all groups. Gathered keys are never kept, the backward gathers anew."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, regions: Tensor, sizes: Sizes, turn: Turn | None, scaling: float
    ) -> Tensor:
        output = q.new_empty(*q.shape[:2], q.shape[2] - sizes.front, v.shape[-1])
        logs = torch.empty(output.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
        with _memory_explained(q, sizes):
            for group in _groups(q, k, v, regions, sizes, turn):
                past = attend_block(group.query, group.keys, group.values, causal=False, scaling=scaling)
                own = attend_block(group.query, group.own_keys, group.own_values, causal=True, scaling=scaling)
                for total, part in zip((output, logs), merge_blocks(past, own), strict=True):
                    total[:, :, group.rows] = _in_a_row(part, group.count)
        ctx.save_for_backward(q, k, v, regions, output, logs)
        ctx.rest = sizes, turn, scaling
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, regions, output, logs = ctx.saved_tensors
        sizes, turn, scaling = ctx.rest
        gradients = tuple(torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
        with _memory_explained(q, sizes):
            for group in _groups(q, k, v, regions, sizes, turn, differentiable=turn is not None):
                parts = [_side_by_side(x[:, :, group.rows], group.count) for x in (gradient, output, logs)]
                past = block_gradients(group.query, group.keys, group.values, *parts, scaling=scaling)
                own = block_gradients(
                    group.query, group.own_keys, group.own_values, *parts, causal=True, scaling=scaling
                )
                group.add_gradients(gradients, past, own)
        return *(total.to(x.dtype) for total, x in zip(gradients, (q, k, v), strict=True)), None, None, None, None


@dataclass(slots=True)
class _Groups:
    """Queries of groups in a row, and copies of the keys and values that they attend to, one for each query head."""

    count: int
    """How many groups; they stand side by side in `B H*count T D`."""
    rows: slice
    """Their place behind the front."""
    tokens: slice
    """Their place in the sequence."""
    picked: Tensor
    """`B H count*K*s`: places of the selected keys in the sequence."""
    leaves: tuple[Tensor, ...]
    """Query, selected keys and own keys before they are turned."""
    query: Tensor
    keys: Tensor
    values: Tensor
    own_keys: Tensor
    own_values: Tensor
    turned: bool
    """Whether query and keys were made from the leaves in a way that gradients can go back."""

    def add_gradients(self, totals: tuple[Tensor, ...], past: tuple[Tensor, ...], own: tuple[Tensor, ...]) -> None:
        """Add the share of these groups to the gradients of q, k and v."""
        query, keys, own_keys = past[0] + own[0], past[1], own[1]
        if self.turned:
            outputs = (self.query, self.keys, self.own_keys)
            query, keys, own_keys = torch.autograd.grad(outputs, self.leaves, (query, keys, own_keys))
        query, keys, own_keys, values, own_values = (
            _in_a_row(x, self.count) for x in (query, keys, own_keys, past[2], own[2])
        )
        totals[0][:, :, self.tokens] += query
        for total, selected, mine in ((totals[1], keys, own_keys), (totals[2], values, own_values)):
            heads = total.shape[1]
            share = selected.shape[1] // heads
            total[:, :, self.tokens] += mine.unflatten(1, (heads, share)).sum(2)
            places = self.picked.unflatten(1, (heads, share)).flatten(2)
            width = selected.shape[-1]
            flat = selected.unflatten(1, (heads, share)).flatten(2, 3).to(total.dtype)
            total.scatter_add_(2, places[..., None].expand(*places.shape, width), flat)


def _groups(
    q: Tensor, k: Tensor, v: Tensor, regions: Tensor, sizes: Sizes, turn: Turn | None, *, differentiable: bool = False
) -> Iterator[_Groups]:
    heads, length = q.shape[1], q.shape[2]
    share = heads // k.shape[1]
    k, v = k.contiguous(), v.contiguous()  # here once, or else `_gathered` copies all of them for each few groups
    inside = torch.arange(sizes.region, device=q.device)
    for number, count in _runs(sizes, length):
        start = sizes.front + number * sizes.group
        tokens = slice(start, min(start + count * sizes.group, length))
        picked = (regions[:, :, number : number + count, :, None] * sizes.region + inside).flatten(2)  # B R count*K*s
        picked = picked.repeat_interleave(heads // picked.shape[1], dim=1)
        keys, values = (_side_by_side(_gathered(x, picked, share), count) for x in (k, v))
        own_keys, own_values = (_side_by_side(x[:, :, tokens].repeat_interleave(share, dim=1), count) for x in (k, v))
        leaves: tuple[Tensor, ...] = (_side_by_side(q[:, :, tokens], count), keys, own_keys)
        query = leaves[0]
        if turn is not None:
            if differentiable:
                leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
            with torch.set_grad_enabled(differentiable):
                compact = sizes.selected * sizes.region
                query, keys, own_keys = turn(leaves[0], compact), turn(leaves[1], 0), turn(leaves[2], compact)
        rows = slice(tokens.start - sizes.front, tokens.stop - sizes.front)
        yield _Groups(count, rows, tokens, picked, leaves, query, keys, values, own_keys, own_values, differentiable)


def _runs(sizes: Sizes, length: int) -> Iterator[tuple[int, int]]:
    """The first of the groups that are taken together, and how many they are; a ragged last one stands alone."""
    whole = (length - sizes.front) // sizes.group
    together = max(1, min(QUERIES // sizes.group, KEYS // (sizes.selected * sizes.region)))
    for first in range(0, whole, together):
        yield first, min(together, whole - first)
    if sizes.front + whole * sizes.group < length:
        yield whole, 1


def _side_by_side(x: Tensor, count: int) -> Tensor:
    """`B H count*T ...` -> `B H*count T ...`"""
    return x.unflatten(2, (count, -1)).flatten(1, 2)


def _in_a_row(x: Tensor, count: int) -> Tensor:
    """`B H*count T ...` -> `B H count*T ...`"""
    return x.unflatten(1, (-1, count)).flatten(2, 3)


def _gathered(x: Tensor, places: Tensor, share: int) -> Tensor:
    """Rows of `B G T D` at `places` `B H S`, where `share` of the H heads read each of the G: `B H S D`."""
    batch, heads, length, width = x.shape
    rows = torch.arange(batch * heads, device=x.device).view(batch, heads).repeat_interleave(share, dim=1) * length
    return x.reshape(-1, width).index_select(0, (rows[..., None] + places).flatten()).view(*places.shape, width)


@contextlib.contextmanager
def _memory_explained(q: Tensor, sizes: Sizes) -> Iterator[None]:
    """Tell which setting takes less when a group's keys do not fit."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise MethodError(
            f"select-merge ran out of memory at {q.shape[2]} tokens: half the top ({sizes.top}) halves the keys that a "
            "group gathers; q, k and v themselves grow with the length and the batch"
        ) from error
