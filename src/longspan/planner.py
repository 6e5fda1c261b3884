"""Which method for which factor, and what a longer window costs in memory: arithmetic, nothing is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Training = Literal["none", "target", "scratch"]

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """What a method can be expected to do; rules of thumb from the papers, to be measured on your own model."""

    method: str
    untrained_factor: float
    """Largest factor at which it is worth trying without training."""
    trained_factor: float
    """Largest factor reported after training at the target length."""
    training: str

    def verdict(self, factor: float) -> str:
        """One word or two for this factor."""
        if factor <= self.untrained_factor:
            return "as it is"
        return "after training" if factor <= self.trained_factor else "not enough"


SUGGESTIONS = (
    Suggestion(
        method="dynamic_ntk",
        untrained_factor=4,
        trained_factor=4,
        training="none: short texts stay as they were; frequencies follow the length",
    ),
    Suggestion(
        method="yarn",
        untrained_factor=8,
        trained_factor=32,
        training="400 steps at the target length (arXiv:2309.00071); a factor somewhat too large does no harm",
    ),
    Suggestion(
        method="ntk",
        untrained_factor=2,
        trained_factor=8,
        training="none, with a factor larger than needed; or as yarn",
    ),
    Suggestion(
        method="pi",
        untrained_factor=1,
        trained_factor=32,
        training="1000 steps at the target length (arXiv:2306.15595)",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that a model takes while it reads one sequence, activations left out."""

    length: int
    weights: int
    cache: int
    """Keys and values of every layer for `length` tokens."""

    @property
    def total(self) -> int:
        return self.weights + self.cache


def memory(config: Any, parameters: int, length: int, dtype: str, *, key_width: int | None = None) -> Memory:
    """Memory at `length` tokens for a Hugging Face `config` with so many parameters, all in `dtype`.

    The cache holds a key and a value for each layer, key head and token; a layer that slides keeps the window but one.

    Args:
        key_width: numbers that a cached key takes with the methods in force; default head_dim, which a value takes.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    value_width = head_dim(config)
    size = _BYTES[dtype]
    cache = _cached_tokens(config, length) * heads * ((key_width or value_width) + value_width) * size
    return Memory(length=length, weights=parameters * size, cache=cache)


def head_dim(config: Any) -> int:
    """Elements of one head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _cached_tokens(config: Any, length: int) -> int:
    """Tokens kept after `length` were read, summed over layers."""
    window = getattr(config, "sliding_window", None)
    default = ["full_attention" if window is None else "sliding_attention"] * config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or default
    return sum(min(length, window - 1) if window and kind == "sliding_attention" else length for kind in kinds)


def doublings(original_length: int, target_length: int) -> list[int]:
    """The original length, its doublings below the target, and the target."""
    count = math.ceil(math.log2(target_length / original_length))
    return [*(original_length * 2**step for step in range(count)), target_length]


def format_bytes(number: int) -> str:
    """`1536` -> `1.5 KiB`."""
    value, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
