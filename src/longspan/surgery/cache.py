"""A cache of un-rotated keys: half as wide for exact CoCA, and never stale when frequencies change."""

from __future__ import annotations

import torch
from transformers import Cache, DynamicCache, PreTrainedConfig, StaticCache

from longspan.errors import ConfigError, LengthError


class CollinearCache(Cache):
    """A transformers cache whose keys turn late: each step rotates them by the frequencies of its own time.

    Give it to a model that longspan has extended, as `past_key_values` of a forward or of `generate`. It holds psi(k)
    before rotation and, in three small columns, the position of each key. Under exact or strict CoCA psi is t alone,
    half as wide as a key; under every other method it has a key's width, and what is gained is that cached keys follow
    frequencies that change (`dynamic_ntk` does so in any cache). Cropping, reordering and repeating rows are the
    library's own.

    The price is a rotation of all cached keys at each step, `O(S D)`, and a temporary of that size.
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
        super().__init__(layers=made.layers, offloading=offloading)
