"""What a cached layer remembers beside keys and values, so that later groups of queries know what they see."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, StaticLayer

from longspan.errors import MethodError
from longspan.regions import Sizes
from longspan.surgery.growing import GrowingLayer

GROUPS = 2
"""Groups whose queries are kept: one chooses for the group that follows, one more can be cut back into."""


class _Remembers(CacheLayerMixin):
    """The regions chosen so far, and the queries that will choose the next ones.

    Both follow the rows when they are reordered, repeated or selected, and the end when it is cut back.
    """

    queries: Float[Tensor, "B R W D"] | None = None
    """The latest queries, one for each choice: what comes next is chosen by them."""
    regions: Int64[Tensor, "B R J K"] | None = None
    """Choices of the groups that have begun; those of groups that were cut off are made anew."""

    def remember(self, queries: Tensor, regions: Tensor, sizes: Sizes) -> None:
        """Keep what the next tokens need."""
        self.queries = queries[:, :, -GROUPS * sizes.group :].detach().clone()
        self.regions = regions

    def _rows(self, take: Any) -> None:
        if self.queries is not None and self.regions is not None:
            self.queries, self.regions = take(self.queries), take(self.regions)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Take the rows in this order."""
        super().reorder_cache(beam_idx)
        self._rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        super().batch_repeat_interleave(repeats)
        self._rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        super().batch_select_indices(indices)
        self._rows(lambda x: x[indices])

    def crop(self, tokens_to_remove: int) -> None:
        """Take so many tokens (given as a negative number) off the end."""
        super().crop(tokens_to_remove)
        if self.queries is not None and tokens_to_remove:
            self.queries = self.queries[:, :, : -abs(tokens_to_remove)]

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.queries = self.regions = None


class GrowingRegionLayer(_Remembers, DynamicLayer):
    """transformers' growing layer that remembers choices."""


class RoomyRegionLayer(_Remembers, GrowingLayer):
    """A layer that grows in place and remembers choices."""


class StaticRegionLayer(_Remembers, StaticLayer):
    """transformers' layer of fixed size that remembers choices; how full it is decides what is computed."""

    is_compileable = False


REMEMBERING: dict[type, type] = {
    DynamicLayer: GrowingRegionLayer,
    GrowingLayer: RoomyRegionLayer,
    StaticLayer: StaticRegionLayer,
}
"""Layers, and what they become."""
RegionLayer = GrowingRegionLayer | RoomyRegionLayer | StaticRegionLayer


def region_layer(cache: Cache, index: int, method: str) -> RegionLayer:
    """The layer of a cache, made one that remembers.

    Raises:
        MethodError: a layer of another kind.
    """
    layer = cache.layers[index]
    if type(layer) in REMEMBERING:
        layer.__class__ = REMEMBERING[type(layer)]
    if not isinstance(layer, RegionLayer):
        raise MethodError(
            f"{method} keeps its choices in a cache that grows or is of fixed size, not in a {type(layer).__name__}: "
            "use transformers' DynamicCache"
        )
    return layer
