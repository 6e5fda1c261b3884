"""Attention to selected regions of the past, in memory linear in the length: routing first, then blocks of SDPA.

Source    arXiv:2410.04211 for the idea; the first author's draft code for the steps, its dedup made stable
Checked   a slow list-based definition in float64, gradients through it; q, k and v perturbed behind a token

Regions are runs of `region` tokens, a group is `merge` regions of queries that share one set of keys: `top - merge`
regions of the past (the first `sinks`, the last `local`, and those picked by pooled q . pooled k), and the group
itself. The first `top` regions attend densely.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from longspan.kernels.groups import RoutedGroups, Turn
from longspan.regions import Eligible, Rating, Routing, Sizes, just_below

ROUTERS = 64
"""Pooled queries that rank together: small groups choose several at a time."""


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
    routed = RoutedGroups.apply(q, k, v, regions, sizes, turn, scaling)
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
    rating: Rating = "mean",
    follow: bool = False,
    lengths: Int64[Tensor, " B"] | None = None,
    since: int = 0,
) -> Int64[Tensor, "B R J K"]:
    """Ids of the K regions of the past that each group behind the front attends to, ascending.

    Every member of a group ranks the regions by pooled q . pooled k; the ranks are read in turn (all members' first
    choice, then all second ones, ...) and the first distinct regions stay. The first `sinks` and the last `local`
    before the group are in any case among the K, and not in the ranks.

    Args:
        routing: `shifted` asks the group before, so that no future token chooses; `lookahead` asks the group itself,
            as the authors' draft does: the choice then depends on up to `merge * region - 1` future queries.
        eligible: a member may choose regions up to the one `merge` before it (`draft`), or all before its group.
        per_key_head: one choice for all query heads that share keys (R = G), by their mean query.
        rating: a region counts by q . the mean of its keys (`mean`), or by what q . any of them can be at most, given
            the largest and the smallest value of each column (`bound`).
        follow: the region behind one that ranks high ranks right behind it.
        lengths: tokens of each row that are no padding on the right; only `lookahead` can meet others.
        since: groups before this one are left out, and so may be the queries of all but the last group before it: q
            are then the last T of the S tokens, from the start of a region on.
    """
    behind = (k.shape[2] - q.shape[2]) // sizes.region
    share = q.shape[1] // k.shape[1]
    if per_key_head:
        q = q.unflatten(1, (k.shape[1], share)).mean(2)
    queries = pooled(q, sizes, lengths)
    if rating == "mean":
        keys = pooled(k, sizes, lengths)
    else:  # the largest value answers to what is positive in the query, the smallest to what is negative
        queries, keys = torch.cat((queries.clamp(min=0), queries.clamp(max=0)), dim=-1), extremes(k, sizes)
    if not per_key_head:
        keys = keys.repeat_interleave(share, dim=1)
    # looking ahead, the last group may have fewer members than the others
    together = max(1, ROUTERS // sizes.merge) if routing == "shifted" else 1
    groups = range(since, sizes.groups(k.shape[2]))
    chosen = [
        _choices(queries, keys, sizes, groups[start : start + together], behind, routing, eligible, follow, lengths)
        for start in range(0, len(groups), together)
    ]
    if not chosen:
        return torch.empty(*queries.shape[:2], 0, sizes.selected, dtype=torch.long, device=q.device)
    return torch.cat(chosen, dim=2)


def pooled(x: Tensor, sizes: Sizes, lengths: Tensor | None = None) -> Tensor:
    """Mean of each region, `B H T D` -> `B H n D` in float32 at least; the ragged last one over the tokens it has."""
    length, dtype = x.shape[2], torch.promote_types(x.dtype, torch.float32)
    starts = torch.arange(0, length, sizes.region, device=x.device)
    end = torch.full((x.shape[0],), length, device=x.device)
    if lengths is not None:
        end = lengths.to(x.device)
        x = x * (torch.arange(length, device=x.device) < end[:, None])[:, None, :, None]
    whole = length - length % sizes.region
    sums = x[:, :, :whole].unflatten(2, (-1, sizes.region)).sum(3, dtype=dtype)
    if whole < length:
        sums = torch.cat((sums, x[:, :, whole:].sum(2, keepdim=True, dtype=dtype)), dim=2)
    return sums / (end[:, None] - starts).clamp(1, sizes.region)[:, None, :, None]


def extremes(x: Tensor, sizes: Sizes) -> Tensor:
    """Largest, then smallest value of each column in each region: `B H T D` -> `B H n 2D` in float32 at least.

    Padding counts as tokens: who could choose a region that holds some is padding too.
    """
    filled = -len(x[0, 0]) % sizes.region
    whole = torch.cat((x, x[:, :, -1:].expand(-1, -1, filled, -1)), dim=2).unflatten(2, (-1, sizes.region))
    return torch.cat((whole.amax(3), whole.amin(3)), dim=-1).to(torch.promote_types(x.dtype, torch.float32))


def _choices(
    queries: Tensor,
    keys: Tensor,
    sizes: Sizes,
    groups: range,
    behind: int,
    routing: Routing,
    eligible: Eligible,
    follow: bool,
    lengths: Tensor | None,
) -> Tensor:
    """The regions of some groups, `B R J K`; the first `behind` regions have no queries."""
    count, merge = len(groups), sizes.merge
    first = sizes.top + groups.start * merge
    begins = first + torch.arange(count, device=keys.device)[:, None] * merge
    nearest = (begins - sizes.local + torch.arange(sizes.local, device=keys.device)).expand(*keys.shape[:2], -1, -1)
    sinks = torch.arange(sizes.sinks, device=keys.device).expand(*nearest.shape[:3], -1)
    if not sizes.free:
        return torch.cat((sinks, nearest), dim=-1)
    start = first if routing == "lookahead" else first - merge
    routers = queries[:, :, start - behind : start - behind + count * merge]
    scores = routers @ keys[:, :, : first + (count - 1) * merge].transpose(-1, -2)
    if follow:
        scores[..., 1:] = torch.maximum(scores[..., 1:], just_below(scores[..., :-1]))
    scores = scores.unflatten(2, (count, -1))  # B R J m n
    members = torch.arange(scores.shape[-2], device=scores.device)
    end = members - merge + 1 if eligible == "draft" else torch.zeros_like(members)
    end = begins + end.clamp(max=-sizes.local)  # J m: where the choice of a member ends
    certain = first - max(merge, sizes.local)  # what lies before it all may choose
    column = torch.arange(certain, scores.shape[-1], device=scores.device)
    scores[..., certain:].masked_fill_(column >= end[..., None], -math.inf)
    scores[..., : sizes.sinks] = -math.inf
    absent = None
    if routing == "lookahead" and lengths is not None:  # members made of padding alone have nothing to say
        absent = (start + members) * sizes.region >= lengths[:, None]
        absent[:, 0] = False  # a group that is all padding chooses something, whatever
    # what is chosen lies between the beginning and what is near, so that all stay ascending
    return torch.cat((sinks, _fair_union(scores, sizes.free, absent), nearest), dim=-1)


def _fair_union(scores: Tensor, wanted: int, absent: Tensor | None) -> Tensor:
    """The first `wanted` distinct candidates when the members' rankings are read rank by rank, ascending.

    Rankings are made only as deep as needed: at `wanted` ranks a single member would do. A GPU makes them that deep at
    once, since it ranks faster than it can tell how deep is enough.
    """
    members, candidates = scores.shape[-2:]
    if members == 1:
        return _best(scores.squeeze(-2), wanted)
    never = members * candidates
    depth = wanted if scores.device.type == "cuda" else min(wanted, 2 * math.ceil(wanted / members))
    while True:
        best = _best_places(scores, depth, never, absent)
        found = wanted if depth == wanted else int((best < never).sum(-1).min())
        if found >= wanted:
            return best.topk(wanted, dim=-1, largest=False).indices.sort(-1).values
        depth = min(wanted, math.ceil(depth * 1.5 * wanted / found))  # repeats grow with the depth: half as much again


def _best(scores: Tensor, wanted: int) -> Tensor:
    """Places of the `wanted` highest scores, ascending; among equals the first, whatever stands behind them.

    Regions are equally good more often than one would think: under a ReLU gate, those that no query sees. What
    `topk` takes of them depends on how many candidates there are, and so on how the input was cut.
    """
    if scores.device.type == "cuda":  # sorts them all sooner than the host would learn whether some are equal
        return scores.argsort(dim=-1, descending=True, stable=True)[..., :wanted].sort(-1).values
    top = scores.topk(min(wanted + 1, scores.shape[-1]), dim=-1)
    least = top.values[..., wanted - 1 : wanted]
    if not bool((top.values[..., wanted:] == least).any()):
        return top.indices[..., :wanted].sort(-1).values
    level = scores == least
    room = wanted - (scores > least).sum(-1, keepdim=True)
    chosen = (scores > least) | (level & (level.cumsum(-1) <= room))
    return chosen.nonzero()[:, -1].view(*scores.shape[:-1], wanted)


def _best_places(scores: Tensor, depth: int, never: int, absent: Tensor | None) -> Tensor:
    """Where each candidate first stands when the members' first `depth` ranks are read rank by rank; or `never`."""
    members, candidates = scores.shape[-2:]
    picks = _best(scores, depth)
    picks = picks.gather(-1, scores.gather(-1, picks).argsort(dim=-1, descending=True, stable=True))
    order = torch.arange(depth, device=scores.device) * members + torch.arange(members, device=scores.device)[:, None]
    order = order.expand_as(picks)
    if absent is not None:
        order = order.masked_fill(absent[:, None, None, :, None], never)
    best = torch.full((*scores.shape[:-2], candidates), never, device=scores.device)
    return best.scatter_reduce(-1, picks.flatten(-2), order.flatten(-2), "amin")
