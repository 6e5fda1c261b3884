"""Select-and-merge for queries that come later than their keys: token by token, or chunk by chunk.

What a group sees is known when it begins, so a chunk of any size gives what one pass over everything gives. All work
goes by groups: a query meets `top * region` keys at most, and regions are chosen once for each group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from longspan.errors import MethodError
from longspan.kernels.blocks import Piece, attend_pieces
from longspan.kernels.select_merge import select_regions
from longspan.regions import RegionRule, Sizes

QUERIES = 512
"""Queries of the front that are attended to at once."""

TurnAt = Callable[[Tensor, Tensor], Tensor]
"""Rotates `B H T W` by positions `B T`, or `B H T`."""


def continued_regions(
    q: Float[Tensor, "B H W D"],
    k: Float[Tensor, "B G S X"],
    rule: RegionRule,
    known: Int64[Tensor, "B R C K"],
    turn: TurnAt | None = None,
) -> Int64[Tensor, "B R J K"]:
    """Regions of all groups that have begun among S tokens, of which `known` have been chosen before.

    Args:
        q: the latest W queries, from any token on.
        turn: as in `continued_attention`.

    Raises:
        MethodError: a group's choice needs queries that are not among them.
    """
    sizes, length = rule.sizes, k.shape[2]
    done, wanted = known.shape[2], sizes.groups(length)
    if done >= wanted:
        return known[:, :, :wanted]
    first = sizes.front + (done - 1) * sizes.group  # the tokens that choose for the first new group
    behind = length - q.shape[2]
    if behind > first:
        raise MethodError(
            "the cache does not hold the queries that choose what is seen next (it was cut back too far, or filled "
            "without this method): read the text again with a new cache"
        )
    chosen = select_regions(
        *comparable(q[:, :, first - behind :], k, turn),
        sizes,
        routing=rule.routing,
        eligible=rule.eligible,
        per_key_head=rule.per_key_head,
        rating=rule.rating,
        follow=rule.follow,
        since=done,
    )
    return torch.cat((known, chosen), dim=2)


def comparable(q: Tensor, k: Tensor, turn: TurnAt | None) -> tuple[Tensor, Tensor]:
    """q and k in one width: the first members of pairs, which stand for the pairs themselves, are spelled out."""
    if turn is None or q.shape[-1] == k.shape[-1]:
        return q, k
    origin = torch.zeros(1, 1, dtype=torch.long, device=q.device)
    return turn(q, origin), turn(k, origin)


def continued_attention(
    q: Float[Tensor, "B H T W"],
    k: Float[Tensor, "B G S X"],
    v: Float[Tensor, "B G S V"],
    rule: RegionRule,
    *,
    regions: Int64[Tensor, "B R J K"],
    turn: TurnAt | None = None,
    positions: Int[Tensor, "B S"] | None = None,
    valid: Bool[Tensor, "B S"] | None = None,
    scaling: float,
    softcap: float | None = None,
) -> Float[Tensor, "B H T V"]:
    """Attention of the last T of S stored tokens; with T = S, what `select_merge_attention` gives.

    Args:
        regions: of all groups that have begun.
        turn: features and rotation, where they come after the choice; None takes q and k as they are.
        positions: of all tokens, for `turn`.
        valid: keys that are no padding.
        softcap: as in `attend_pieces`.
    """
    sizes, keys = rule.sizes, k.shape[2]
    past = keys - q.shape[2]
    outputs = []
    for start, stop, group in _runs(sizes, past, keys):
        rows = slice(start - past, stop - past)
        pieces = _pieces(q[:, :, rows], k, v, rule, start, group, regions, turn, positions, valid)
        outputs.append(attend_pieces(pieces, scaling, softcap))
    return torch.cat(outputs, dim=2)


def _runs(sizes: Sizes, start: int, stop: int) -> Iterator[tuple[int, int, int | None]]:
    """Tokens that attend at once, from one to another, and the number of their group behind the front."""
    while start < stop:
        if start < sizes.front:
            end, group = min(start + QUERIES, sizes.front), None
        else:
            group = (start - sizes.front) // sizes.group
            end = sizes.front + (group + 1) * sizes.group
        yield start, min(end, stop), group
        start = end


def _pieces(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: RegionRule,
    start: int,
    group: int | None,
    regions: Tensor,
    turn: TurnAt | None,
    positions: Tensor | None,
    valid: Tensor | None,
) -> list[Piece]:
    """Queries from token `start` on, with the keys that were selected for their group and with those of the group."""
    sizes, stop, heads = rule.sizes, start + q.shape[2], q.shape[1]
    begin = 0 if group is None else sizes.front + group * sizes.group
    places = torch.arange(begin, stop, device=q.device)
    # where the tokens of the group stand: behind what was selected, or where they always stood
    moved = sizes.selected * sizes.region - begin if rule.positions == "selected" and group is not None else 0
    own_keys, own_values = (x[:, :, begin:stop].repeat_interleave(heads // k.shape[1], dim=1) for x in (k, v))
    if turn is not None:
        assert positions is not None
        own_keys = turn(own_keys, positions[:, begin + moved : stop + moved])
        q = turn(q, positions[:, start + moved : stop + moved])
    seen = (places <= torch.arange(start, stop, device=q.device)[:, None])[None, None]
    if valid is not None:
        seen = seen & valid[:, None, None, begin:stop]
    pieces = [Piece(q, own_keys, own_values, None if valid is None and len(q[0, 0]) == 1 else seen)]
    if group is None:
        return pieces
    inside = torch.arange(sizes.region, device=q.device)
    picked = (regions[:, :, group, :, None] * sizes.region + inside).flatten(2)  # B R K*s
    picked = picked.repeat_interleave(heads // picked.shape[1], dim=1)
    keys, values = _gathered(k, picked), _gathered(v, picked)
    if turn is not None and positions is not None:
        compact = positions[:, : picked.shape[-1]]
        keys = turn(keys, compact if rule.positions == "selected" else _gathered(positions[:, None], picked))
    real = None
    if valid is not None:  # a choice of padding itself may hold padding
        real = _gathered(valid[:, None], picked)[:, :, None].expand(-1, -1, q.shape[2], -1)
    return [*pieces, Piece(q, keys, values, real)]


def _gathered(x: Tensor, places: Tensor) -> Tensor:
    """Rows of `B G S ...` at `places` `B H P`, where H / G heads read each of the G: `B H P ...`."""
    batch, heads = places.shape[:2]
    row = torch.arange(batch, device=x.device)[:, None, None]
    head = (torch.arange(heads, device=x.device) * x.shape[1] // heads)[:, None]
    return x[row, head, places]
