"""Attention of queries to one block of keys with the logarithm of its weights' sum, so that blocks can be merged.

softmax over several blocks is the mean of the blocks' outputs, weighted by exp of those logarithms. The gradient of a
block needs only the output and the logarithm of the whole: no block has to know the others.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Block = tuple[Tensor, Tensor]
"""Output `B H T V` and log of the sum of exp(logit) `B H T`."""
Gradients = tuple[Tensor, Tensor, Tensor]
"""Of q, k and v."""


class Piece(NamedTuple):
    """Queries `B H T D` and one block of keys and values `B H S D`, `B H S V`."""

    q: Tensor
    k: Tensor
    v: Tensor
    seen: Tensor | None = None
    """True where a query sees a key, `B 1 T S` or `1 1 T S`; None: everywhere."""


def attend_pieces(pieces: Sequence[Piece], scaling: float, softcap: float | None = None) -> Tensor:
    """Attention of the same T queries, turned anew for each piece, to the keys of all pieces: `B H T V`.

    A query that sees no key gets zeros.

    Args:
        softcap: logits go through `softcap tanh(x / softcap)`; no kernel does that, so all T x S exist at once.
    """
    if softcap is not None:
        return _capped(pieces, scaling, softcap)
    masks = tuple(piece.seen for piece in pieces)
    tensors = [tensor for piece in pieces for tensor in (piece.q, piece.k, piece.v)]
    output: Tensor = _Merged.apply(scaling, masks, *tensors)
    return output


def _capped(pieces: Sequence[Piece], scaling: float, softcap: float) -> Tensor:
    logits = torch.cat([_logits(q, k, False, None, scaling) for q, k, _, _ in pieces], dim=-1)
    logits = softcap * torch.tanh(logits / softcap)
    masks = [_everything(q, k) if seen is None else seen for q, k, _, seen in pieces]
    logits = logits.masked_fill(~torch.cat([mask.expand(len(logits), -1, -1, -1) for mask in masks], -1), -torch.inf)
    values = torch.cat([v for _, _, v, _ in pieces], dim=2)
    return logits.softmax(-1).nan_to_num().to(values.dtype) @ values


def _everything(q: Tensor, k: Tensor) -> Tensor:
    return torch.ones(1, 1, q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)


class _Merged(torch.autograd.Function):
    """All pieces under one softmax; each piece's gradient needs only the whole's output and logarithm."""

    @staticmethod
    def forward(ctx: Any, scaling: float, masks: tuple[Tensor | None, ...], *tensors: Tensor) -> Tensor:
        pieces = zip(tensors[0::3], tensors[1::3], tensors[2::3], masks, strict=True)
        blocks = [attend_block(q, k, v, seen=seen, scaling=scaling) for q, k, v, seen in pieces]
        output, logs = merge_blocks(*blocks)
        ctx.save_for_backward(output, logs, *tensors)
        ctx.rest = scaling, masks
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        output, logs, *tensors = ctx.saved_tensors
        scaling, masks = ctx.rest
        found: list[Tensor] = []
        for q, k, v, seen in zip(tensors[0::3], tensors[1::3], tensors[2::3], masks, strict=True):
            found += block_gradients(q, k, v, gradient, output, logs, seen=seen, scaling=scaling)
        return None, None, *found


def attend_block(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, seen: Tensor | None = None, scaling: float
) -> Block:
    """Attention of `B H T D` queries to `B H S D` keys; a query that sees none gets 0 and the logarithm -inf.

    Args:
        causal: T = S, and each query sees the keys up to its own.
        seen: as in `Piece`.
    """
    output, logs = _ways(q, k, v, seen)[0](q, k, v, causal, seen, scaling)
    if seen is not None:
        blind = ~seen.any(-1)
        output, logs = output.masked_fill(blind[..., None], 0.0), logs.masked_fill(blind, -torch.inf)
    return output, logs


def merge_blocks(*blocks: Block) -> Block:
    """Attention to the keys of all blocks together."""
    logs = torch.stack([log for _, log in blocks])
    whole = logs.logsumexp(0)
    weights = (logs - whole).exp().nan_to_num()[..., None]  # nan: a query that sees no key in any block
    outputs = torch.stack([output.to(weights.dtype) for output, _ in blocks])
    return (weights * outputs).sum(0).to(blocks[0][0].dtype), whole


def block_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gradient: Tensor,
    output: Tensor,
    logs: Tensor,
    *,
    causal: bool = False,
    seen: Tensor | None = None,
    scaling: float,
) -> Gradients:
    """Gradients of q, k and v through one block, given output and logarithm of all blocks merged."""
    logs = logs.masked_fill(logs.isneginf(), 0.0)  # a query that sees no key: its weights stay 0
    return _ways(q, k, v, seen)[1](q, k, v, gradient, output, logs, causal, seen, scaling)


def _ways(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None
) -> tuple[Callable[..., Block], Callable[..., Gradients]]:
    """The fastest kernel that takes such a block, and its backward."""
    if q.device.type == "cpu":
        return flash_block, flash_gradients
    if q.device.type != "cuda":
        return plain_block, plain_gradients
    reason = why_not_flash(q, k, v, seen)
    if reason is None:
        return cuda_flash_block, cuda_flash_gradients
    say_once(reason)
    return plain_block, plain_gradients


def why_not_flash(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> str | None:
    """Why the flash kernel of a GPU does not take this block; None where it does."""
    width = q.shape[-1]
    if q.dtype not in (torch.float16, torch.bfloat16):
        return (
            f"attention in blocks has no flash kernel for {q.dtype} on a GPU and makes all logits of a block: use bf16"
        )
    if not width == k.shape[-1] == v.shape[-1] or width % 8 or width > 256:
        return f"attention in blocks has no flash kernel for heads of {width} on a GPU and makes all logits of a block"
    if seen is not None:
        return "attention in blocks has no flash kernel for masks on a GPU and makes all logits of masked blocks"
    return None


@functools.cache
def say_once(reason: str) -> None:
    """Log one line, the first time."""
    logger.warning(reason)


def flash_block(q: Tensor, k: Tensor, v: Tensor, causal: bool, seen: Tensor | None, scaling: float) -> Block:
    """On a processor: the kernel behind torch's SDPA, which also tells the logarithm."""
    output, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=_additive(seen, q.dtype), scale=scaling
    )
    return output, logs


def flash_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gradient: Tensor,
    output: Tensor,
    logs: Tensor,
    causal: bool,
    seen: Tensor | None,
    scaling: float,
) -> Gradients:
    """The backward of `flash_block`."""
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, q, k, v, output, logs, 0.0, causal, attn_mask=_additive(seen, q.dtype), scale=scaling
    )
    return dq, dk, dv


def cuda_flash_block(q: Tensor, k: Tensor, v: Tensor, causal: bool, seen: Tensor | None, scaling: float) -> Block:
    """On a GPU, without a mask: the kernel behind torch's SDPA, in bf16 or float16."""
    assert seen is None
    output, logs, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scaling)
    return output, logs


def cuda_flash_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gradient: Tensor,
    output: Tensor,
    logs: Tensor,
    causal: bool,
    seen: Tensor | None,
    scaling: float,
) -> Gradients:
    """The backward of `cuda_flash_block`, called as torch's own ring attention calls it."""
    assert seen is None
    unused = torch.empty(2, dtype=torch.uint64, device=q.device)  # the state of dropout, of which there is none
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        gradient, q, k, v, output, logs, None, None, q.shape[2], k.shape[2], 0.0, causal, unused, unused, scale=scaling
    )
    return dq, dk, dv


def plain_block(q: Tensor, k: Tensor, v: Tensor, causal: bool, seen: Tensor | None, scaling: float) -> Block:
    """Anywhere: all logits of the block at once."""
    logits = _logits(q, k, causal, seen, scaling)
    logs = logits.logsumexp(-1)
    return (logits - logs[..., None]).exp().to(v.dtype) @ v, logs


def plain_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gradient: Tensor,
    output: Tensor,
    logs: Tensor,
    causal: bool,
    seen: Tensor | None,
    scaling: float,
) -> Gradients:
    """The backward of `plain_block`."""
    weights = (_logits(q, k, causal, seen, scaling) - logs[..., None]).exp()
    gradient = gradient.to(weights.dtype)
    inner = gradient @ v.to(weights.dtype).transpose(-1, -2)
    inner = weights * (inner - (gradient * output.to(weights.dtype)).sum(-1, keepdim=True)) * scaling
    dq, dk = inner @ k.to(weights.dtype), inner.transpose(-1, -2) @ q.to(weights.dtype)
    dv = weights.transpose(-1, -2) @ gradient
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _additive(seen: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """0 where a key is seen, -inf elsewhere."""
    if seen is None:
        return None
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -torch.inf)


def _logits(q: Tensor, k: Tensor, causal: bool, seen: Tensor | None, scaling: float) -> Tensor:
    wide = torch.promote_types(q.dtype, torch.float32)
    logits = (q @ k.transpose(-1, -2)).to(wide) * scaling
    if causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        logits = logits.masked_fill(later, -torch.inf)
    return logits if seen is None else logits.masked_fill(~seen, -torch.inf)
