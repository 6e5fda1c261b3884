"""The window of a model: what all frequencies are computed from. Shapes as in `equation.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from longspan.errors import LengthError, MethodError
from longspan.rotation import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The window a model was trained on, the one it shall have, and the rotation between them."""

    rotary_dim: int
    """R: even number of elements of a head that rotate; the frequencies of RoPE follow from it and `base`."""
    base: float = 10000.0
    original_length: int
    """Tokens the model was trained on."""
    target_length: int
    """Tokens it shall read."""
    length: int | None = None
    """Tokens it reads now, for frequencies that follow the length; None stands for the target."""
    layout: Layout = "half"

    def __post_init__(self) -> None:
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise MethodError(f"rotary_dim must be even and at least 2, not {self.rotary_dim}")
        if self.base <= 1:
            raise MethodError(f"base must be above 1, not {self.base}")
        if self.original_length < 1:
            raise LengthError(f"original_length must be positive, not {self.original_length}")
        if self.target_length < self.original_length:
            raise LengthError(
                f"target_length {self.target_length} is shorter than original_length {self.original_length}: "
                "a window can only be made longer"
            )

    @property
    def factor(self) -> float:
        """How many times longer the target is than the original."""
        return self.target_length / self.original_length

    @property
    def omega(self) -> Float64[Tensor, " F"]:
        """RoPE's own frequencies, radians a token: `base^(-2j/R)`."""
        index = torch.arange(0, self.rotary_dim, 2, dtype=torch.float64)
        return self.base ** (-index / self.rotary_dim)

    @property
    def turns(self) -> Float64[Tensor, " F"]:
        """How often each pair turns within the original window."""
        return self.original_length * self.omega / (2 * math.pi)

    def at(self, length: int) -> Window:
        """The same window while it reads `length` tokens."""
        return replace(self, length=length)
