"""Where a token of an item stands, and whom it sees: methods for the library's slots `position` and `selection`.

Formula   item(t) = min(floor(t / L), N - 1), slot(t) = t - L item(t);  i sees j iff item(i) = item(j)
          for N items of L codes each; a closing token (EOS) belongs to the last item and stands in slot L
Source    arXiv:2506.15576; the mask and the slots of its encoder, read in the authors' code
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from longspan.equation import Attention, Draw, PartSelection, Position, Window, plain_draw
from longspan.errors import LengthError, MethodError
from longspan.methods.selection.s2 import in_groups
from longspan.settings import require


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemGrid(Position):
    """Position of a token inside its item."""

    codes: int = 4
    """L: tokens of an item."""
    closing: bool = False
    """Whether one more token follows the last item."""

    @classmethod
    def only_trains(cls) -> bool:
        return False

    def check(self) -> None:
        require(self.codes >= 1, self, "an item has at least one code")

    def items(self, length: int) -> int:
        """N: items in a row of `length` tokens.

        Raises:
            LengthError: the tokens are no whole items.
        """
        items, rest = divmod(length - self.closing, self.codes)
        if items < 1 or rest:
            closing = " and a closing token" if self.closing else ""
            raise LengthError(f"{length} tokens are no items of {self.codes} codes{closing}: give whole items")
        return items

    def item(self, length: int) -> Int64[np.ndarray, " n"]:
        """The number of the item of each token, 0 .. N - 1."""
        return np.minimum(np.arange(length) // self.codes, self.items(length) - 1)

    def slot(self, length: int) -> Int64[np.ndarray, " n"]:
        """The place of each token in its item, 0 .. L - 1; L for the closing token."""
        return np.arange(length) - self.codes * self.item(length)

    def draw(
        self,
        length: int,
        window: Window,
        rng: np.random.Generator,
        *,
        document: int | None = None,
        turns: np.ndarray | None = None,
    ) -> Draw:
        return plain_draw(length, self.slot(length))


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemLocal(PartSelection):
    """A token sees the tokens of its own item, those behind it too."""

    codes: int = 4
    """L: tokens of an item."""
    closing: bool = False
    """Whether one more token follows the last item and belongs to it."""

    def seen(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], lengths: Sequence[int] | None = None
    ) -> Bool[Tensor, "B H T S"]:
        item = torch.from_numpy(self._grid.item(k.shape[2])).to(q.device)
        same = item[k.shape[2] - q.shape[2] :, None] == item
        return same.expand(q.shape[0], q.shape[1], -1, -1)

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            raise MethodError("ItemLocal takes whole rows: give as many queries as keys, and no lengths")

        def both_ways(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            return attention(q, k, v, torch.ones(1, 1, q.shape[2], k.shape[2], dtype=torch.bool, device=q.device))

        # the last item may be a token longer than the others, which are rows of one batch
        last = self.codes * (self._grid.items(q.shape[2]) - 1)
        parts = []
        if last:
            parts.append(in_groups(both_ways, _part((q, k, v), 0, last), None, self.codes, 0))
        parts.append(both_ways(*_part((q, k, v), last, q.shape[2]), None))
        return torch.cat(parts, dim=2)

    @property
    def _grid(self) -> ItemGrid:
        return ItemGrid(codes=self.codes, closing=self.closing)


def _part(qkv: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x[:, :, start:stop] for x in qkv)
    return q, k, v
