"""Select-and-merge attention of whole sequences under any rule: choice, turn and attention in the order it asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from longspan.kernels.select_merge import select_merge_attention, select_regions
from longspan.kernels.select_merge_decode import TurnAt, comparable, continued_attention
from longspan.regions import RegionRule


def choose_regions(
    q: Float[Tensor, "B H T W"],
    k: Float[Tensor, "B G S X"],
    rule: RegionRule,
    turn: TurnAt | None = None,
    lengths: Sequence[int] | None = None,
) -> Int64[Tensor, "B R J K"]:
    """Regions of every group; arguments as in `region_attention`."""
    seeing = rule.routing == "lookahead" and lengths is not None  # others never meet padding on the right
    return select_regions(
        *comparable(q, k, turn),
        rule.sizes,
        routing=rule.routing,
        eligible=rule.eligible,
        per_key_head=rule.per_key_head,
        rating=rule.rating,
        follow=rule.follow,
        lengths=torch.tensor(lengths, device=k.device) if seeing else None,
    )


def region_attention(
    q: Float[Tensor, "B H T W"],
    k: Float[Tensor, "B G S X"],
    v: Float[Tensor, "B G S V"],
    rule: RegionRule,
    *,
    regions: Int64[Tensor, "B R J K"],
    turn: TurnAt | None = None,
    positions: Int[Tensor, "B S"] | None = None,
    tau: Float[Tensor, "B T"] | None = None,
    lengths: Sequence[int] | None = None,
    scaling: float,
    softcap: float | None = None,
) -> Float[Tensor, "B H T V"]:
    """Attention of all tokens; of the last T, if the front holds all S.

    Args:
        q: rotated under `positions="all"`, before rotation under the others; so is k.
        regions: from `choose_regions`.
        turn: rotation of both, where it comes after the choice.
        positions: of all tokens, for `turn`.
        tau: factor on the logits of each query, which has no part in the choice.
        lengths: tokens of each row that are no padding on the right.
        softcap: as in `attend_pieces`.
    """
    ends = None if lengths is None else torch.tensor(lengths, device=k.device)
    if tau is not None:
        q = (q * tau[:, None, :, None]).to(q.dtype)
    if lengths is not None or softcap is not None or q.shape[2] < k.shape[2]:
        valid = None if ends is None else torch.arange(k.shape[2], device=k.device) < ends[:, None]
        return continued_attention(
            q,
            k,
            v,
            rule,
            regions=regions,
            turn=turn,
            positions=positions,
            valid=valid,
            scaling=scaling,
            softcap=softcap,
        )
    if turn is None or positions is None:
        return select_merge_attention(q, k, v, rule.sizes, regions=regions, scaling=scaling)
    if rule.positions == "selected_absolute":
        q, k = turn(q, positions), turn(k, positions)
        return select_merge_attention(q, k, v, rule.sizes, regions=regions, scaling=scaling)

    def compact(x: Tensor, first: int) -> Tensor:
        return turn(x, positions[:, first : first + x.shape[2]])

    q, k = comparable(q, k, turn)
    return select_merge_attention(q, k, v, rule.sizes, regions=regions, turn=compact, scaling=scaling)
