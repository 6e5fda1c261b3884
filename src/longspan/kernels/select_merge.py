"""Attention to selected regions of the past, in memory linear in the length: routing first, then blocks of SDPA.

Source    arXiv:2410.04211 for the idea; the first author's draft code for the steps, its dedup made stable
Checked   a slow list-based definition in float64, gradients through it; q, k and v perturbed behind a token

Regions are runs of `region` tokens, a group is `merge` regions of queries that share one set of keys: `top - merge`
regions of the past, picked by pooled q . pooled k, and the group itself. The first `top` regions attend densely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from longspan.kernels.blocks import attend_block, block_gradients, merge_blocks
from longspan.regions import Eligible, Routing
from longspan.regions import Sizes as Sizes

Turn = Callable[[Tensor, int], Tensor]
"""Rotates `... T W` whose first token stands at the given position."""


def select_merge_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G T D"],
    v: Float[Tensor, "B G T V"],
    sizes: Sizes,
    *,
    regions: Int64[Tensor, "B R J K"],
    turn: Turn | None = None,
    scaling: float | None = None,
) -> Float[Tensor, "B H T V"]:
    """Causal attention of each group to its selected regions and to itself; dense for the first `top` regions.

    Args:
        regions: from `select_regions`; R is H or G.
        turn: gives compact positions to keys and queries after the selection, so that every position stays below
            `top * region`; None takes q and k as they are.
        scaling: factor on the logits; default `D ** -0.5`.
    """
    scaling = 1 / math.sqrt(q.shape[-1]) if scaling is None else scaling
    length, front = q.shape[2], min(q.shape[2], sizes.front)
    turned = (q[:, :, :front], k[:, :, :front])
    if turn is not None:
        turned = (turn(turned[0], 0), turn(turned[1], 0))
    share = q.shape[1] // k.shape[1]
    head = functional.scaled_dot_product_attention(
        turned[0],
        turned[1].repeat_interleave(share, dim=1),
        v[:, :, :front].repeat_interleave(share, dim=1),
        is_causal=True,
        scale=scaling,
    )
    if length <= sizes.front:
        return head
    routed = _Routed.apply(q, k, v, regions, sizes, turn, scaling)
    return torch.cat((head, routed), dim=2)


@torch.no_grad()
def select_regions(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    sizes: Sizes,
    *,
    routing: Routing = "shifted",
    eligible: Eligible = "draft",
    per_key_head: bool = False,
    lengths: Int64[Tensor, " B"] | None = None,
    since: int = 0,
) -> Int64[Tensor, "B R J K"]:
    """Ids of the K regions of the past that each group behind the front attends to, ascending.

    Every member of a group ranks the regions by pooled q . pooled k; the ranks are read in turn (all members' first
    choice, then all second ones, ...) and the first K distinct regions stay.

    Args:
        routing: `shifted` asks the group before, so that no future token chooses; `lookahead` asks the group itself,
            as the authors' draft does: the choice then depends on up to `merge * region - 1` future queries.
        eligible: a member may choose regions up to the one `merge` before it (`draft`), or all before its group.
        per_key_head: one choice for all query heads that share keys (R = G), by their mean query.
        lengths: tokens of each row that are no padding on the right; only `lookahead` can meet others.
        since: groups before this one are left out, and so may be the queries of all but the last group before it: q
            are then the last T of the S tokens, from the start of a region on.
    """
    behind = (k.shape[2] - q.shape[2]) // sizes.region
    share = q.shape[1] // k.shape[1]
    if per_key_head:
        q = q.unflatten(1, (k.shape[1], share)).mean(2)
    queries, keys = (pooled(x, sizes, lengths) for x in (q, k))
    if not per_key_head:
        keys = keys.repeat_interleave(share, dim=1)
    chosen = [
        _choice(queries, keys, sizes, sizes.top + group * sizes.merge, behind, routing, eligible, lengths)
        for group in range(since, sizes.groups(k.shape[2]))
    ]
    if not chosen:
        return torch.empty(*queries.shape[:2], 0, sizes.selected, dtype=torch.long, device=q.device)
    return torch.stack(chosen, dim=2)


def pooled(x: Tensor, sizes: Sizes, lengths: Tensor | None = None) -> Tensor:
    """Mean of each region, `B H T D` -> `B H n D` in float32 at least; the ragged last one over the tokens it has."""
    length = x.shape[2]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    end = torch.full((x.shape[0],), length, device=x.device) if lengths is None else lengths.to(x.device)
    valid = torch.arange(length, device=x.device) < end[:, None]
    x = functional.pad(x * valid[:, None, :, None], (0, 0, 0, -length % sizes.region))
    count = functional.pad(valid, (0, -length % sizes.region)).unflatten(1, (-1, sizes.region)).sum(-1)
    return x.unflatten(2, (-1, sizes.region)).sum(3) / count.clamp(min=1)[:, None, :, None]


def _choice(
    queries: Tensor,
    keys: Tensor,
    sizes: Sizes,
    first: int,
    behind: int,
    routing: Routing,
    eligible: Eligible,
    lengths: Tensor | None,
) -> Tensor:
    """The regions, `B R K`, for the group whose first region is `first`; the first `behind` regions have no queries."""
    start = first if routing == "lookahead" else first - sizes.merge
    routers = queries[:, :, start - behind : start - behind + sizes.merge]
    scores = routers @ keys[:, :, :first].transpose(-1, -2)
    members, candidates = scores.shape[-2:]
    if eligible == "draft":
        member, candidate = torch.arange(members, device=scores.device), torch.arange(first, device=scores.device)
        scores = scores.masked_fill(candidate > first - sizes.merge + member[:, None], -math.inf)
    absent = None
    if routing == "lookahead" and lengths is not None:  # members made of padding alone have nothing to say
        absent = (start + torch.arange(members, device=scores.device)) * sizes.region >= lengths[:, None]
        absent[:, 0] = False  # a group that is all padding chooses something, whatever
    return _fair_union(scores, sizes.selected, candidates, absent)


def _fair_union(scores: Tensor, wanted: int, candidates: int, absent: Tensor | None) -> Tensor:
    """The first `wanted` distinct candidates when the members' rankings are read rank by rank, ascending.

    Rankings are made only as deep as needed: at `wanted` ranks a single member would do.
    """
    members = scores.shape[-2]
    depth = min(wanted, 2 * math.ceil(wanted / members))
    never = members * candidates
    while True:
        picks = scores.topk(depth, dim=-1).indices
        order = (
            torch.arange(depth, device=scores.device) * members + torch.arange(members, device=scores.device)[:, None]
        )
        order = order.expand_as(picks)
        if absent is not None:
            order = order.masked_fill(absent[:, None, :, None], never)
        best = torch.full((*scores.shape[:-2], candidates), never, device=scores.device)
        best = best.scatter_reduce(-1, picks.flatten(-2), order.flatten(-2), "amin")
        if depth == wanted or bool(((best < never).sum(-1) >= wanted).all()):
            return best.topk(wanted, dim=-1, largest=False).indices.sort(-1).values
        depth = min(wanted, 2 * depth)


class _Routed(torch.autograd.Function):
    """The groups behind the front, one at a time: their gathered keys are never kept, the backward gathers anew."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, regions: Tensor, sizes: Sizes, turn: Turn | None, scaling: float
    ) -> Tensor:
        output = q.new_empty(*q.shape[:2], q.shape[2] - sizes.front, v.shape[-1])
        logs = torch.empty(output.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
        for group in _groups(q, k, v, regions, sizes, turn):
            past = attend_block(group.query, group.keys, group.values, causal=False, scaling=scaling)
            own = attend_block(group.query, group.own_keys, group.own_values, causal=True, scaling=scaling)
            output[:, :, group.rows], logs[:, :, group.rows] = merge_blocks(past, own)
        ctx.save_for_backward(q, k, v, regions, output, logs)
        ctx.rest = sizes, turn, scaling
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, regions, output, logs = ctx.saved_tensors
        sizes, turn, scaling = ctx.rest
        gradients = tuple(torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
        for group in _groups(q, k, v, regions, sizes, turn, differentiable=turn is not None):
            parts = (gradient[:, :, group.rows], output[:, :, group.rows], logs[:, :, group.rows])
            past = block_gradients(group.query, group.keys, group.values, *parts, causal=False, scaling=scaling)
            own = block_gradients(group.query, group.own_keys, group.own_values, *parts, causal=True, scaling=scaling)
            group.add_gradients(gradients, past, own, regions.shape[1])
        return *(total.to(x.dtype) for total, x in zip(gradients, (q, k, v), strict=True)), None, None, None, None


@dataclass(slots=True)
class _Group:
    """One group's queries, and copies of the keys and values that it attends to, one for each query head."""

    rows: slice
    """Its place behind the front."""
    tokens: slice
    """Its place in the sequence."""
    picked: Tensor
    """`B H K*s`: places of the selected keys in the sequence."""
    leaves: tuple[Tensor, ...]
    """Query, selected keys and own keys before they are turned."""
    query: Tensor
    keys: Tensor
    values: Tensor
    own_keys: Tensor
    own_values: Tensor
    turned: bool
    """Whether query and keys were made from the leaves in a way that gradients can go back."""

    def add_gradients(
        self, totals: tuple[Tensor, ...], past: tuple[Tensor, ...], own: tuple[Tensor, ...], routed_heads: int
    ) -> None:
        """Add this group's share to the gradients of q, k and v."""
        query, keys, own_keys = past[0] + own[0], past[1], own[1]
        if self.turned:
            outputs = (self.query, self.keys, self.own_keys)
            query, keys, own_keys = torch.autograd.grad(outputs, self.leaves, (query, keys, own_keys))
        totals[0][:, :, self.tokens] += query
        for total, selected, mine in ((totals[1], keys, own_keys), (totals[2], past[2], own[2])):
            heads = total.shape[1]
            share = selected.shape[1] // heads
            total[:, :, self.tokens] += mine.unflatten(1, (heads, share)).sum(2)
            places = self.picked.unflatten(1, (heads, share)).flatten(2)
            width = selected.shape[-1]
            flat = selected.unflatten(1, (heads, share)).flatten(2, 3).to(total.dtype)
            total.scatter_add_(2, places[..., None].expand(*places.shape, width), flat)


def _groups(
    q: Tensor, k: Tensor, v: Tensor, regions: Tensor, sizes: Sizes, turn: Turn | None, *, differentiable: bool = False
) -> Iterator[_Group]:
    heads, length = q.shape[1], q.shape[2]
    share = heads // k.shape[1]
    inside = torch.arange(sizes.region, device=q.device)
    for number in range(regions.shape[2]):
        start = sizes.front + number * sizes.group
        tokens = slice(start, min(start + sizes.group, length))
        picked = (regions[:, :, number, :, None] * sizes.region + inside).flatten(2)  # B R K*s
        picked = picked.repeat_interleave(heads // picked.shape[1], dim=1)
        keys, values = (_gathered(x, picked, share) for x in (k, v))
        own_keys, own_values = (x[:, :, tokens].repeat_interleave(share, dim=1) for x in (k, v))
        leaves: tuple[Tensor, ...] = (q[:, :, tokens], keys, own_keys)
        query = leaves[0]
        if turn is not None:
            if differentiable:
                leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
            with torch.set_grad_enabled(differentiable):
                compact = sizes.selected * sizes.region
                query, keys, own_keys = turn(leaves[0], compact), turn(leaves[1], 0), turn(leaves[2], compact)
        rows = slice(tokens.start - sizes.front, tokens.stop - sizes.front)
        yield _Group(rows, tokens, picked, leaves, query, keys, values, own_keys, own_values, differentiable)


def _gathered(x: Tensor, places: Tensor, share: int) -> Tensor:
    """Rows of `B G T D` at `places` `B H S`, where `share` of the H heads read each of the G: `B H S D`."""
    batch, heads, length, width = x.shape
    rows = torch.arange(batch * heads, device=x.device).view(batch, heads).repeat_interleave(share, dim=1) * length
    return x.reshape(-1, width).index_select(0, (rows[..., None] + places).flatten()).view(*places.shape, width)
