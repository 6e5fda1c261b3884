"""A cache of bounded size, for methods under which a query sees the first tokens and the nearest ones only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from longspan.errors import DataError, MethodError
from longspan.surgery.rotary import LongspanRotary


class BoundedCache(Cache):
    """A transformers cache that keeps the keys that some later token can see, and lets the rest go.

    Give it to a model that longspan has extended with `streaming` or `lm_infinite`, as `past_key_values` of a forward
    or of `generate`: outputs are those of a cache that keeps everything, and its size does not grow. One row at a
    time: in a batch the first places of a padded row are padding and no sinks. What left is gone: no cropping.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Layers as the model's config describes them; sliding ones stay the library's.

        Raises:
            MethodError: the model's methods let some query see a token of the middle.
        """
        rotary = next((module for module in model.modules() if isinstance(module, LongspanRotary)), None)
        bands = None if rotary is None else rotary.slots.bands
        kept = None if rotary is None or bands is None else bands.kept(rotary.window)
        if kept is None:
            raise MethodError(
                "BoundedCache fits methods that never look at the middle (streaming, lm_infinite), and this model has "
                "none: extend it so, or take transformers' DynamicCache"
            )
        layers = DynamicCache(config=model.config).layers
        super().__init__(layers=[_SinksAndRecent(*kept) if type(layer) is DynamicLayer else layer for layer in layers])


class _SinksAndRecent(DynamicLayer):
    """The first keys and the nearest; its length counts all that ever came, for positions and masks go by that."""

    is_croppable = False

    def __init__(self, sinks: int, recent: int) -> None:
        super().__init__()
        self.sinks = sinks
        self.recent = recent
        self.cumulative_length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values that the new tokens can see; of them the cache keeps what the next one can."""
        if len(key_states) > 1:
            raise DataError(f"BoundedCache takes one row at a time, not {len(key_states)}: give each row its own")
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        self.cumulative_length += key_states.shape[-2]
        self.keys, self.values = self._kept(keys), self._kept(values)
        return keys, values

    def _kept(self, x: Tensor) -> Tensor:
        nearest = self.recent - 1  # the next token is the nearest to itself
        if x.shape[-2] <= self.sinks + nearest:
            return x
        return torch.cat((x[..., : self.sinks, :], x[..., x.shape[-2] - nearest :, :]), dim=-2)

    def get_seq_length(self) -> int:
        """Tokens that ever came: where the next one stands."""
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the next `update` returns, and the place of the first if all of them stood next to each other."""
        stored = self.keys.shape[-2] if self.is_initialized else 0
        return stored + query_length, self.cumulative_length - stored
