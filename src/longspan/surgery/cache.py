"""A cache of un-rotated keys: half as wide for exact CoCA, and never stale when frequencies change."""

from __future__ import annotations

import torch
from transformers import Cache, DynamicCache, PreTrainedConfig, StaticCache
from transformers.cache_utils import DynamicLayer

from longspan.errors import ConfigError, LengthError
from longspan.surgery.growing import GrowingLayer


class CollinearCache(Cache):
    """A transformers cache whose keys turn late: each step rotates them by the frequencies of its own time.

    Give it to a model that longspan has extended, as `past_key_values` of a forward or of `generate`. It holds psi(k)
    before rotation and, in three small columns, the position of each key. Under exact or strict CoCA psi is t alone,
    half as wide as a key; under every other method it has a key's width, and what is gained is that cached keys follow
    frequencies that change (`dynamic_ntk` does so in any cache). Cropping, reordering and repeating rows are the
    library's own.

    Half-width keys turn while a step of a few tokens reads them, and none is written turned; keys of full width, long
    prompts, attention implementations other than sdpa, and masks that are not of true and false are turned as a whole
    first: `O(S D)`, and a temporary of that size. Layers that grow keep an eighth of their length to spare, so that a
    step copies nothing.
    """

    def __init__(self, config: PreTrainedConfig, *, max_length: int | None = None, offloading: bool = False) -> None:
        """Layers as `config` describes them.

        Args:
            max_length: tokens of a cache of fixed size (transformers' static layers); None lets it grow.
            offloading: keep the layers that are not in use in the processor's memory; for models on a CUDA device,
                whose streams move them.

        Raises:
            LengthError: max_length is less than 1.
            ConfigError: offloading without a CUDA device.
        """
        if offloading and not torch.cuda.is_available():
            raise ConfigError("offloading=True: torch sees no CUDA device to offload from; leave it out")
        if max_length is not None and max_length < 1:
            raise LengthError(f"max_length is {max_length}: it must be at least 1, or None for a cache that grows")
        made = (
            DynamicCache(config=config) if max_length is None else StaticCache(config=config, max_cache_len=max_length)
        )
        layers = made.layers
        if not offloading:  # layers that come and go would leave their rooms behind
            layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in layers]
        super().__init__(layers=layers, offloading=offloading)
