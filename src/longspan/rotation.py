"""How a pair of elements is turned. Shapes as in `equation.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

Layout = Literal["half", "interleaved"]
"""Which elements make a pair: (i, i + F), as `rotate_half` has it, or (2i, 2i + 1)."""

Rotate = Callable[[Tensor], Tensor]
"""R(p, omega) at fixed positions: `... T R` or `... T F` (first members only) -> `... T 2F`."""

Magnitude = Literal["square", "relu", "softplus"]
"""What is made of a pair (a, b) before it turns, its second member being 0: a^2 + b^2, or a gate of (a + b) / 2."""


class Magnitudes(NamedTuple):
    """Those of queries and of keys."""

    query: Magnitude
    key: Magnitude


class Start(NamedTuple):
    """The first positions of a sequence, where a method lets pairs turn at a speed of their own."""

    tokens: int
    omega: Float64[Tensor, " F"]


def split_pairs(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """First and second members of each pair: `... R` -> two of `... F`."""
    if layout == "half":
        first, second = x.chunk(2, dim=-1)
        return first, second
    return x[..., 0::2], x[..., 1::2]


def join_pairs(first: Tensor, second: Tensor, layout: Layout) -> Tensor:
    """The inverse of `split_pairs`."""
    if layout == "half":
        return torch.cat((first, second), dim=-1)
    return torch.stack((first, second), dim=-1).flatten(-2)


def rotation_tables(
    omega: Tensor, positions: Tensor, dtype: torch.dtype, start: Start | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles, `... T F`, for omega `F` or `B F` and positions `... T`.

    Angles are made in float64 and cast once: bf16 counts exactly only to 256, and float32 angles are off by 0.02 rad
    at a million tokens.
    """
    speed = omega.unsqueeze(-2)
    if start is not None:
        speed = torch.where((positions < start.tokens)[..., None], start.omega.to(omega.device), speed)
    angles = positions[..., None].double() * speed
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
    """Turn each pair of `x` (`... T 2F`, or `... T F` for pairs whose second member is 0) by its angle."""
    if x.shape[-1] == cos.shape[-1]:
        return join_pairs(x * cos, x * sin, layout)
    first, second = split_pairs(x, layout)
    return join_pairs(first * cos - second * sin, second * cos + first * sin, layout)
