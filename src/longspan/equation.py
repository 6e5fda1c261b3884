"""The one line that every method changes a term of, its slots, and how a pair of elements is turned.

    logit[i,j] = tau_i * < R(p_i, omega) phi(q_i) , R(p_j, omega) psi(k_j) > / sqrt(D)  +  b[i,j]      for j in S(i)

Legend for all shapes: B batch, H query heads, G key heads (H is a multiple of G), T queries, S keys, D head dim,
R rotated part of D (partial rotary), F pairs that turn (R / 2 for RoPE itself). The layout is always B H T D.

A slot is a base class below; a method is one frozen dataclass that fills one or more of them with pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from longspan.errors import LengthError, MethodError
from longspan.settings import check_settings

Layout = Literal["half", "interleaved"]
"""Which elements make a pair: (i, i + F), as `rotate_half` has it, or (2i, 2i + 1)."""

Rotate = Callable[[Tensor], Tensor]
"""R(p, omega) at fixed positions: `... T R` or `... T F` (first members only) -> `... T 2F`."""


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


class Method:
    """One idea: a frozen dataclass that fills slots of the equation. The module's docstring is its card."""

    __slots__ = ()

    scales_window: ClassVar[bool] = False
    """Whether it acts through `Window.factor`, so that factor 1 changes nothing."""

    def __post_init__(self) -> None:
        check_settings(self)
        self.check()

    def check(self) -> None:
        """Refuse settings outside their range or at odds with each other; types are checked before.

        Raises:
            MethodError: in one line, what should hold.
        """

    @classmethod
    def slots(cls) -> tuple[str, ...]:
        """Names of the slots this method fills."""
        return tuple(name for name, slot in SLOTS.items() if issubclass(cls, slot))


class Frequency(Method):
    """Slot omega: how fast each pair turns."""

    __slots__ = ()

    follows_length: ClassVar[bool] = False
    """Whether omega depends on `Window.length`: then keys are cached un-rotated and turned afresh each time."""

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        """Radians a token of each pair."""
        raise NotImplementedError

    def changes_with_length(self) -> bool:
        """Whether these settings make omega follow the current length."""
        return self.follows_length

    def plain_until(self) -> int:
        """The first position that turns by `frequency`; those below it turn as plain RoPE turns them.

        Above 0, scores depend on absolute positions.
        """
        return 0


class Scale(Method):
    """Slot tau: a factor on all logits of a query."""

    __slots__ = ()

    def scale(self, window: Window, positions: Tensor) -> Tensor:
        """tau of queries at `positions` (any shape, integers), same shape, float64."""
        raise NotImplementedError


class Bias(Method):
    """Slot b: a number added to a logit."""

    __slots__ = ()

    def bias(self, heads: int, distance: Tensor) -> Tensor:
        """b for query-minus-key `distance` (`B T S` or `T S`) as `... H T S`, float32."""
        raise NotImplementedError


class Feature(Method):
    """Slots phi and psi: what is rotated instead of q and k themselves.

    Both maps act on the R rotated elements and return either pairs (`... 2F`) or only the first member of each pair
    (`... F`, the second being 0): `rotate` takes both, and the short form needs half the work and half the cache.
    """

    __slots__ = ()

    def rotary_dim(self, rotary_dim: int) -> int:
        """Elements that rotate after the map (2F), given the model's R."""
        return rotary_dim

    def parameters(self, key_heads: int, rotary_dim: int) -> dict[str, Tensor]:
        """Learned tensors of one layer at their initial values, by name."""
        return {}

    def phi(self, q: Float[Tensor, "*B T R"], layout: Layout) -> Float[Tensor, "*B T W"]:
        """Feature of the query before rotation."""
        raise NotImplementedError

    def psi(
        self, k: Float[Tensor, "*B S R"], layout: Layout, parameters: Mapping[str, Tensor]
    ) -> Float[Tensor, "*B S W"]:
        """Feature of the key before rotation; this is what a cache of un-rotated keys holds."""
        raise NotImplementedError

    def query(self, q: Float[Tensor, "*B T R"], rotate: Rotate, layout: Layout) -> Float[Tensor, "*B T W"]:
        """Feature of the query after rotation."""
        return rotate(self.phi(q, layout))


SLOTS: dict[str, type[Method]] = {"feature": Feature, "frequency": Frequency, "scale": Scale, "bias": Bias}


class Start(NamedTuple):
    """The first positions of a sequence, where a method lets pairs turn at a speed of their own."""

    tokens: int
    omega: Float64[Tensor, " F"]


@dataclass(frozen=True, slots=True)
class Slots:
    """The methods in force, each in its place; None is what plain RoPE has there."""

    feature: Feature | None = None
    frequency: Frequency | None = None
    scale: Scale | None = None
    bias: Bias | None = None

    def rotary_dim(self, rotary_dim: int) -> int:
        """Elements that rotate, given the model's R."""
        return rotary_dim if self.feature is None else self.feature.rotary_dim(rotary_dim)

    def omega(self, window: Window) -> Float64[Tensor, " F"]:
        """Frequencies in force."""
        window = replace(window, rotary_dim=self.rotary_dim(window.rotary_dim))
        return window.omega if self.frequency is None else self.frequency.frequency(window)

    def start(self, window: Window) -> Start | None:
        """The positions that keep RoPE's own frequencies; None where all turn by `omega`."""
        tokens = 0 if self.frequency is None else self.frequency.plain_until()
        return Start(tokens, Slots(feature=self.feature).omega(window)) if tokens else None

    def follows_length(self) -> bool:
        """Whether the frequencies change while the sequence grows."""
        return self.frequency is not None and self.frequency.changes_with_length()


def fill_slots(methods: Sequence[Method]) -> Slots:
    """Put each method into its slots.

    Raises:
        MethodError: two methods claim one slot; the message names both and the slot.
    """
    filled: dict[str, Method] = {}
    for method in methods:
        for slot in method.slots():
            if slot in filled:
                first, second = type(filled[slot]).__name__, type(method).__name__
                raise MethodError(f"{first} and {second} both fill the slot '{slot}': choose one of them")
            filled[slot] = method
    return Slots(**filled)  # type: ignore[arg-type]


def split_pairs(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """First and second members of each pair: `... R` -> two of `... F`."""
    if layout == "half":
        first, second = x.chunk(2, dim=-1)
        return first, second
    return x[..., 0::2], x[..., 1::2]


def join_pairs(first: Tensor, second: Tensor, layout: Layout) -> Tensor:
    """The inverse of `split_pairs`."""
    if layout == "half":
        return torch.cat((first, second), dim=-1)
    return torch.stack((first, second), dim=-1).flatten(-2)


def rotation_tables(
    omega: Tensor, positions: Tensor, dtype: torch.dtype, start: Start | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles, `... T F`, for omega `F` or `B F` and positions `... T`.

    Angles are made in float64 and cast once: bf16 counts exactly only to 256, and float32 angles are off by 0.02 rad
    at a million tokens.
    """
    speed = omega.unsqueeze(-2)
    if start is not None:
        speed = torch.where((positions < start.tokens)[..., None], start.omega.to(omega.device), speed)
    angles = positions[..., None].double() * speed
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
    """Turn each pair of `x` (`... T 2F`, or `... T F` for pairs whose second member is 0) by its angle."""
    if x.shape[-1] == cos.shape[-1]:
        return join_pairs(x * cos, x * sin, layout)
    first, second = split_pairs(x, layout)
    return join_pairs(first * cos - second * sin, second * cos + first * sin, layout)


def check_shapes(q: Tensor, k: Tensor, causal: bool) -> None:
    """Refuse head counts that do not divide, and causal attention with more queries than keys."""
    if q.shape[1] % k.shape[1]:
        raise MethodError(f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads: one must divide the other")
    if causal and q.shape[2] > k.shape[2]:
        raise MethodError(f"causal attention of {q.shape[2]} queries needs at least as many keys, not {k.shape[2]}")


def check_window(slots: Slots, window: Window | None) -> None:
    """Refuse methods that need a window where there is none: they would silently do nothing."""
    if window is None:
        for method in (slots.frequency, slots.scale):
            if method is not None and not isinstance(method, Bias):  # ALiBi: nothing turns anyway
                raise MethodError(f"{type(method).__name__} needs a window: without one nothing rotates")


def wide(x: Tensor) -> Tensor:
    """`x` in float32 at least: what squares and softplus of lower precisions are made in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def initial_parameters(slots: Slots, key_heads: int, rotary_dim: int) -> dict[str, Tensor]:
    """What a feature's learned tensors start from; empty for features without any."""
    return {} if slots.feature is None else slots.feature.parameters(key_heads, rotary_dim)
