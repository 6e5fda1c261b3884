"""S2: shifted sparse attention, with which LongLoRA trains; attention is full again when the model is used.

Formula   i sees j iff j <= i and both lie in one group of G tokens: floor(i / G) in the first half of the query heads,
          floor((i + G/2) / G) in the second half, whose groups so overlap two of the first
Source    arXiv:2309.12307; code dvlab-research/LongLoRA (both of its forms read at d4eb344)
Differs   no leak: the code's rolled form lets the first G/2 tokens see the last G/2, through which a deep model sees
          every next token while it trains; leaky=True reproduces that form, for comparison only. G is fixed, not a
          share of the length, and any length will do. Off in evaluation by itself, not by a call that can be forgotten
Checked   the visibility matrix by hand; that no logit moves with a later token (the leaky form fails it); the reference
Training  only there: time and memory of attention grow with N G. Needs a frequency method for a longer window
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.equation import Attention, PartSelection
from longspan.errors import MethodError


@dataclass(frozen=True, slots=True, kw_only=True)
class S2(PartSelection):
    """Shifted sparse attention."""

    group: int = 2048
    """G: tokens of a group, an even number; a quarter of the training length in the original."""
    leaky: bool = False
    """Reproduce the original's rolled form, which sees ahead: its training loss says nothing about the model."""

    @classmethod
    def only_trains(cls) -> bool:
        return True

    def check(self) -> None:
        if self.group < 2 or self.group % 2:
            raise MethodError(f"group must be an even number of tokens, at least 2, not {self.group}")

    def seen(self, q: Tensor, k: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        queries, keys = q.shape[2], k.shape[2]
        self._check_shapes(q, k)
        place = torch.arange(keys, device=q.device)
        if self.leaky:
            order = (place - self.group // 2) % keys
            shifted = order // self.group
        else:
            order, shifted = place, (place + self.group // 2) // self.group
        halves = [_inside(place // self.group, place), _inside(shifted, order)]
        heads = torch.stack(halves).repeat_interleave(q.shape[1] // 2, dim=0)
        return heads[:, keys - queries :].expand(len(q), -1, -1, -1)

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        self._check_shapes(q, k)
        if self.leaky and mask is not None:
            raise MethodError("S2(leaky=True) takes no mask: use sdpa attention and rows without padding")
        splits = k.shape[1] % 2 == 0  # else all heads take both ways, since half of the key heads there is not
        outputs = []
        for half in (0, 1):
            heads = [x.chunk(2, dim=1)[half] for x in (q, k, v)] if splits else [q, k, v]
            if half and self.leaky:
                rolled = [x.roll(-self.group // 2, dims=2) for x in heads]
                output = in_groups(attention, rolled, None, self.group, 0).roll(self.group // 2, dims=2)
            else:
                output = in_groups(attention, heads, mask, self.group, half * self.group // 2)
            outputs.append(output if splits else output.chunk(2, dim=1)[half])
        return torch.cat(outputs, dim=1)

    def _check_shapes(self, q: Tensor, k: Tensor) -> None:
        if q.shape[1] % 2:
            raise MethodError(f"S2 halves the query heads, and {q.shape[1]} is odd: it does not suit this model")
        if self.leaky and k.shape[2] % self.group:
            raise MethodError(f"S2(leaky=True) needs a multiple of {self.group} tokens, not {k.shape[2]}")


def _inside(groups: Tensor, order: Tensor) -> Tensor:
    """Causal attention, in that order, inside groups: `N N`."""
    return (groups[:, None] == groups) & (order[:, None] >= order)


def in_groups(attention: Attention, qkv: Sequence[Tensor], mask: Tensor | None, group: int, first: int) -> Tensor:
    """Causal attention inside groups in a row: `first` tokens, then `group` each, the last one maybe fewer."""
    length = qkv[0].shape[2]
    first = min(first, length)
    end = length - (length - first) % group
    runs = ((0, first, first), (first, end, group), (end, length, length - end))
    parts = [_folded(attention, qkv, mask, *run) for run in runs if run[0] < run[1]]
    return torch.cat(parts, dim=2)


def _folded(
    attention: Attention, qkv: Sequence[Tensor], mask: Tensor | None, start: int, stop: int, size: int
) -> Tensor:
    """The groups of `size` tokens between `start` and `stop`, as rows of one batch."""
    count = (stop - start) // size

    def fold(x: Tensor) -> Tensor:
        return x[:, :, start:stop].unflatten(2, (count, size)).transpose(1, 2).flatten(0, 1)

    if mask is not None:
        blocks = mask[:, :, start:stop, start:stop].expand(len(qkv[0]), -1, -1, -1)
        blocks = blocks.unflatten(3, (count, size)).unflatten(2, (count, size)).diagonal(dim1=2, dim2=4)
        mask = blocks.permute(0, 4, 1, 2, 3).flatten(0, 1)
    q, k, v = (fold(x) for x in qkv)
    output = attention(q, k, v, mask)
    return output.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)
