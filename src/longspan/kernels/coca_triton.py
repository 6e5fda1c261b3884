"""Exact CoCA's features and rotation in one pass over q or k, in Triton: q -> [u cos, u sin], k -> [t cos, t sin].

Each element is read once and written once, in the model's dtype; what lies between is float32 and rounded at the end.
The backward pass reads the input again and makes u or t anew, so nothing of float32 is kept for it but cos and sin.
Import it only where triton is; `fused` decides whether it runs.
"""

from __future__ import annotations

import typing
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from longspan.rotation import Layout, Magnitude

ELEMENTS = 1024
"""Pairs that a program holds at once."""
HEADS = 4
"""Heads that a program goes through with the same cos and sin."""


@triton.jit
@typing.no_type_check
def _log1p(y):
    # log(1 + y) would lose a small y; dividing by what 1 + y really became makes up for it
    sum_ = 1.0 + y
    lost = sum_ == 1.0
    return tl.where(lost, y, tl.log(sum_) * (y / tl.where(lost, 1.0, sum_ - 1.0)))


@triton.jit
@typing.no_type_check
def _magnitude(a, b, MAGNITUDE: tl.constexpr):
    if MAGNITUDE == "square":
        made = a * a + b * b
    else:
        mean = (a + b) * 0.5
        made = tl.maximum(mean, 0.0)
        if MAGNITUDE == "softplus":
            made += _log1p(tl.exp(-tl.abs(mean)))
    return made


@triton.jit
@typing.no_type_check
def _slopes(a, b, MAGNITUDE: tl.constexpr):
    # derivatives of the magnitude by a and by b
    if MAGNITUDE == "square":
        by_a, by_b = 2.0 * a, 2.0 * b
    else:
        mean = (a + b) * 0.5
        by_a = 0.5 / (1.0 + tl.exp(-mean)) if MAGNITUDE == "softplus" else tl.where(mean > 0.0, 0.5, 0.0)
        by_b = by_a
    return by_a, by_b


@triton.jit
@typing.no_type_check
def _turn(
    x, grad, cos, sin, out,
    x_batch, x_head, x_token, x_element,
    grad_batch, grad_head, grad_token, grad_element,
    out_batch, out_head, out_token, out_element,
    table_batch, tokens, heads,
    PAIRS: tl.constexpr, REST: tl.constexpr, INTERLEAVED: tl.constexpr, MAGNITUDE: tl.constexpr,
    BACKWARD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, REST_COLUMNS: tl.constexpr,
    HEADS: tl.constexpr,
):  # fmt: skip
    """`ROWS` tokens of `HEADS` heads: `out` from `x`, or the gradient of `x`, also called `out`, from `grad`.

    `x_batch` and the like are strides in elements. Programs of the same tokens are neighbours, so that cos and sin of
    all heads come from the cache.
    """
    groups = (heads + HEADS - 1) // HEADS
    first_head = (tl.program_id(0) % groups) * HEADS
    row = (tl.program_id(0) // groups).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    batch = tl.program_id(1).to(tl.int64)
    pair = tl.arange(0, COLUMNS)[None, :]
    table, known = batch * table_batch + row * PAIRS + pair, (row < tokens) & (pair < PAIRS)
    c = tl.load(cos + table, mask=known, other=0.0)
    s = tl.load(sin + table, mask=known, other=0.0)
    first = pair * 2 if INTERLEAVED else pair
    second = first + (1 if INTERLEAVED else PAIRS)
    for number in tl.static_range(HEADS):
        head = (first_head + number).to(tl.int64)
        end = tl.where(head < heads, tokens, 0)
        inside = (row < end) & (pair < PAIRS)
        x_row = x + batch * x_batch + head * x_head + row * x_token
        grad_row = grad + batch * grad_batch + head * grad_head + row * grad_token
        out_row = out + batch * out_batch + head * out_head + row * out_token
        a = tl.load(x_row + first * x_element, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(x_row + second * x_element, mask=inside, other=0.0).to(tl.float32)
        if BACKWARD:
            along = tl.load(grad_row + first * grad_element, mask=inside, other=0.0).to(tl.float32) * c
            along += tl.load(grad_row + second * grad_element, mask=inside, other=0.0).to(tl.float32) * s
            by_a, by_b = _slopes(a, b, MAGNITUDE)
            left, right = along * by_a, along * by_b
        else:
            made = _magnitude(a, b, MAGNITUDE)
            left, right = made * c, made * s
        tl.store(out_row + first * out_element, left.to(out.dtype.element_ty), mask=inside)
        tl.store(out_row + second * out_element, right.to(out.dtype.element_ty), mask=inside)
        if REST:
            column = tl.arange(0, REST_COLUMNS)[None, :]
            kept = (row < end) & (column < REST)
            column += 2 * PAIRS
            if BACKWARD:
                passing = tl.load(grad_row + column * grad_element, mask=kept)
            else:
                passing = tl.load(x_row + column * x_element, mask=kept)
            tl.store(out_row + column * out_element, passing, mask=kept)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, rotary_dim: int, layout: Layout, magnitude: Magnitude
    ) -> Tensor:
        ctx.save_for_backward(x, cos, sin)
        ctx.settings = rotary_dim, layout, magnitude
        return _launch(x, None, cos, sin, torch.empty(x.shape, dtype=x.dtype, device=x.device), *ctx.settings)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, cos, sin = ctx.saved_tensors
        # like x in memory: it goes back through the view that x is, which would copy it otherwise
        found = _launch(x, grad, cos, sin, torch.empty_like(x), *ctx.settings)
        return found, None, None, None, None, None


def turned(x: Tensor, cos: Tensor, sin: Tensor, *, rotary_dim: int, layout: Layout, magnitude: Magnitude) -> Tensor:
    """As `coca_pass.turned`, in bfloat16, float16 or float32, with float32 tables."""
    return _Turned.apply(x, cos, sin, rotary_dim, layout, magnitude)


def _launch(
    x: Tensor,
    grad: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    out: Tensor,
    rotary_dim: int,
    layout: Layout,
    magnitude: Magnitude,
) -> Tensor:
    batch, heads, tokens, width = x.shape
    pairs, rest = rotary_dim // 2, width - rotary_dim
    cos, sin = cos.contiguous(), sin.contiguous()
    columns = triton.next_power_of_2(pairs)
    rows = max(1, ELEMENTS // columns)
    programs = triton.cdiv(tokens, rows) * triton.cdiv(heads, HEADS), batch
    given = x if grad is None else grad
    if not out.numel():
        return out
    with torch.cuda.device_of(x):
        _turn[programs](
            x,
            given,
            cos,
            sin,
            out,
            *x.stride(),
            *given.stride(),
            *out.stride(),
            0 if cos.shape[0] == 1 else tokens * pairs,
            tokens,
            heads,
            PAIRS=pairs,
            REST=rest,
            INTERLEAVED=layout == "interleaved",
            MAGNITUDE=magnitude,
            BACKWARD=grad is not None,
            ROWS=rows,
            COLUMNS=columns,
            REST_COLUMNS=triton.next_power_of_2(max(1, rest)),
            HEADS=HEADS,
        )
    return out
