"""Exact CoCA's features and rotation in torch's own operations, written where they belong: no joining, no padding.

Autograd would keep each step of the plain path and join two halves by a copy. Here a pass makes u or t, half as wide
as a head, and writes its two products with cos and sin into the result; the backward pass does the same the other way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from longspan.equation import wide
from longspan.rotation import Layout, Magnitude, split_pairs


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, rotary_dim: int, layout: Layout, magnitude: Magnitude
    ) -> Tensor:
        head, cos, sin = x[..., :rotary_dim], cos.unsqueeze(1), sin.unsqueeze(1)
        first, second = split_pairs(wide(head), layout)
        if magnitude == "square":
            made = torch.addcmul(first * first, second, second)
        else:
            mean = torch.lerp(first, second, 0.5)
            made = mean.relu_() if magnitude == "relu" else functional.softplus(mean)
        # of a gate its outcome tells the slope, in half the room
        ctx.save_for_backward(x if magnitude == "square" else made, cos, sin)
        ctx.settings = rotary_dim, layout, magnitude
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for part, table in zip(split_pairs(out[..., :rotary_dim], layout), (cos, sin), strict=True):
            torch.mul(made, table, out=part)
        out[..., rotary_dim:] = x[..., rotary_dim:]
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, cos, sin = ctx.saved_tensors
        rotary_dim, layout, magnitude = ctx.settings
        first, second = split_pairs(wide(grad[..., :rotary_dim]), layout)
        along = torch.addcmul(first * cos, second, sin)
        batch, heads, tokens, width = grad.shape
        # heads beside each other, as projections leave them: it goes back to one without a copy
        found = torch.empty(batch, tokens, heads, width, dtype=grad.dtype, device=grad.device).transpose(1, 2)
        parts = split_pairs(found[..., :rotary_dim], layout)
        if magnitude == "square":
            along.mul_(2)
            for part, member in zip(parts, split_pairs(wide(kept[..., :rotary_dim]), layout), strict=True):
                torch.mul(member, along, out=part)
        else:
            if magnitude == "relu":
                along = torch.ops.aten.threshold_backward(along, kept, 0)
            else:
                along.mul_(-torch.expm1(-kept))  # the slope of softplus, by its outcome
            along.mul_(0.5)
            for part in parts:
                part.copy_(along)
        found[..., rotary_dim:] = grad[..., rotary_dim:]
        return found, None, None, None, None, None


def turned(x: Tensor, cos: Tensor, sin: Tensor, *, rotary_dim: int, layout: Layout, magnitude: Magnitude) -> Tensor:
    """Rotated features `B H T D` of queries or keys `x` (`B H T D`), the last `D - rotary_dim` elements as they are.

    Args:
        cos, sin: `B T F` or `1 T F`, in float32 at least, without gradients.
        magnitude: `square` for queries, the gate for keys.
    """
    return _Turned.apply(x, cos, sin, rotary_dim, layout, magnitude)
