"""The one line that every method changes a term of, and its slots.

    logit[i,j] = tau_i * < R(p_i, omega) phi(q_i) , R(p_j, omega) psi(k_j) > / sqrt(D)  +  b[i,j]      for j in S(i)

Legend for all shapes: B batch, H query heads, G key heads (H is a multiple of G), T queries, S keys, D head dim,
R rotated part of D (partial rotary), F pairs that turn (R / 2 for RoPE itself). The layout is always B H T D.

Each slot is a base class in slots.py; a method is one frozen dataclass that fills one or more of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from longspan.errors import MethodError
from longspan.regions import RegionRule
from longspan.rotation import Start
from longspan.slots import (
    SLOTS as SLOTS,
)
from longspan.slots import (
    Attention as Attention,
)
from longspan.slots import (
    Band as Band,
)
from longspan.slots import (
    Bands as Bands,
)
from longspan.slots import (
    Bias as Bias,
)
from longspan.slots import (
    Draw as Draw,
)
from longspan.slots import (
    Feature as Feature,
)
from longspan.slots import (
    Frequency as Frequency,
)
from longspan.slots import (
    Method as Method,
)
from longspan.slots import (
    PartSelection as PartSelection,
)
from longspan.slots import (
    Position as Position,
)
from longspan.slots import (
    RegionSelection as RegionSelection,
)
from longspan.slots import (
    Scale as Scale,
)
from longspan.slots import (
    Selection as Selection,
)
from longspan.slots import (
    Where as Where,
)
from longspan.slots import (
    plain_draw as plain_draw,
)
from longspan.window import Window as Window


@dataclass(frozen=True, slots=True)
class Slots:
    """The methods in force, each in its place; None is what plain RoPE has there."""

    feature: Feature | None = None
    frequency: Frequency | None = None
    scale: Scale | None = None
    bias: Bias | None = None
    bands: Bands | None = None
    position: Position | None = None
    selection: Selection | None = None

    def rotary_dim(self, rotary_dim: int) -> int:
        """Elements that rotate, given the model's R."""
        return rotary_dim if self.feature is None else self.feature.rotary_dim(rotary_dim)

    def omega(self, window: Window, step: int | None = None) -> Float64[Tensor, " F"]:
        """Frequencies in force, or those of a training step."""
        window = replace(window, rotary_dim=self.rotary_dim(window.rotary_dim))
        if self.frequency is None:
            return window.omega
        return self.frequency.frequency(window) if step is None else self.frequency.in_training(window, step)

    def start(self, window: Window) -> Start | None:
        """The positions that keep RoPE's own frequencies; None where all turn by `omega`."""
        tokens = 0 if self.frequency is None else self.frequency.plain_until()
        return Start(tokens, Slots(feature=self.feature).omega(window)) if tokens else None

    def selects(self, training: bool) -> bool:
        """Whether queries see less than all of the past, in training or in use."""
        if not isinstance(self.selection, PartSelection | RegionSelection):
            return False
        return training or not self.selection.only_trains()

    def for_local(self) -> Slots:
        """Those for a layer that sees a window of the past only: nothing it sees is far."""
        chooses = self.region_rule() is not None
        return replace(self, bands=None, selection=None if chooses else self.selection)

    def region_rule(self) -> RegionRule | None:
        """How groups of queries choose regions of the past; None where no method lets them."""
        return self.selection.rule() if isinstance(self.selection, RegionSelection) else None

    def follows_length(self) -> bool:
        """Whether the frequencies change while the sequence grows."""
        return self.frequency is not None and self.frequency.changes_with_length()


def fill_slots(methods: Sequence[Method]) -> Slots:
    """Put each method into its slots.

    Raises:
        MethodError: two methods claim one slot, or cannot act together; the message names both.
    """
    filled: dict[str, Method] = {}
    for method in methods:
        for slot in method.slots():
            if slot in filled:
                first, second = type(filled[slot]).__name__, type(method).__name__
                raise MethodError(f"{first} and {second} both fill the slot '{slot}': choose one of them")
            filled[slot] = method
    if "selection" in filled and "bias" in filled:
        first, second = type(filled["selection"]).__name__, type(filled["bias"]).__name__
        raise MethodError(f"{first} and {second} do not go together: a selection attends by parts, without a bias")
    slots = Slots(**filled)  # type: ignore[arg-type]
    rule = slots.region_rule()
    if rule is not None and rule.turns_late and slots.feature is not None and not slots.feature.turns_last():
        first, second = type(slots.selection).__name__, type(slots.feature).__name__
        raise MethodError(
            f"{first}(positions='{rule.positions}') turns what was chosen, and {second} with these settings forms its "
            "queries after the turn: take positions='all' or another form"
        )
    if slots.bands is not None:
        _check_bands(slots)
    return slots


def _check_bands(slots: Slots) -> None:
    """Refuse what has no meaning where query and key stand at several positions at once."""
    bands = type(slots.bands).__name__
    for other in (slots.bias, slots.selection):
        if other is not None:
            name = type(other).__name__
            raise MethodError(f"{bands} and {name} both say what a query sees and how far: choose one of them")
    if slots.frequency is not None and slots.frequency.plain_until():
        name = type(slots.frequency).__name__
        raise MethodError(f"{bands} moves positions, and {name} keeps the first ones plain: set its start_tokens to 0")


def check_shapes(q: Tensor, k: Tensor, causal: bool) -> None:
    """Refuse head counts that do not divide, and causal attention with more queries than keys."""
    if q.shape[1] % k.shape[1]:
        raise MethodError(f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads: one must divide the other")
    if causal and q.shape[2] > k.shape[2]:
        raise MethodError(f"causal attention of {q.shape[2]} queries needs at least as many keys, not {k.shape[2]}")


def check_selection(slots: Slots, causal: bool) -> None:
    """Refuse a selection where queries shall see the future."""
    if slots.selection is not None and not causal:
        raise MethodError(f"{type(slots.selection).__name__} is causal: leave causal=True")


def check_window(slots: Slots, window: Window | None) -> None:
    """Refuse methods that need a window where there is none: they would silently do nothing."""
    if window is None:
        for method in (slots.frequency, slots.scale, slots.bands):
            if method is not None and not isinstance(method, Bias):  # ALiBi: nothing turns anyway
                raise MethodError(f"{type(method).__name__} needs a window: without one nothing rotates")


def wide(x: Tensor) -> Tensor:
    """`x` in float32 at least: what squares and softplus of lower precisions are made in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def initial_parameters(slots: Slots, key_heads: int, rotary_dim: int) -> dict[str, Tensor]:
    """What a feature's learned tensors start from; empty for features without any."""
    return {} if slots.feature is None else slots.feature.parameters(key_heads, rotary_dim)
