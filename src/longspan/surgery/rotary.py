"""The rotary module of a patched model: what depends on positions, made once for each forward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from longspan.equation import Slots, Start, Window, rotation_tables


class Rotation(NamedTuple):
    """What the attention modules need in one forward pass. It travels with the call, so that several passes through a
    model (checkpointing, replicas, threads) never see each other's positions."""

    cos: Float[Tensor, "B T F"]
    sin: Float[Tensor, "B T F"]
    tau: Float[Tensor, "B T"] | None
    positions: Int[Tensor, "B T"]
    omega: Float[Tensor, "*B F"]
    key_tables: dict[int, tuple[Tensor, Tensor]]
    """cos and sin of all cached keys, by their number: made by the first layer that needs them, for all."""
    start: Start | None = None
    """Positions that turn at a speed of their own."""
    keys_turn_late: bool = False
    """Whether the cache in use keeps keys un-rotated, whatever the frequencies do."""

    @torch.no_grad()
    def of_keys(self, positions: Int[Tensor, "B S"]) -> tuple[Tensor, Tensor]:
        """cos and sin of keys at `positions`, by the frequencies of this pass."""
        keys = positions.shape[-1]
        if keys not in self.key_tables or self.key_tables[keys][0].device != positions.device:
            self.key_tables[keys] = rotation_tables(self.omega, positions, self.cos.dtype, self.start)
        return self.key_tables[keys]


class Terms(NamedTuple):
    """The methods in force in a layer, and the window they act on."""

    slots: Slots
    window: Window


LOCAL = "sliding_attention"
"""What transformers calls layers that see a window of the past only."""


class LongspanRotary(nn.Module):
    """Stands where the family's rotary module stood.

    It holds no buffer, since a buffer could be lost on the meta device or be cast to bf16 with the model.
    """

    def __init__(self, slots: Slots, window: Window, local: Terms | None = None):
        super().__init__()
        self.slots = slots
        self.window = window
        self.local = local

    def terms(self, layer_type: str | None) -> Terms:
        """What holds in layers of that type, as transformers names it."""
        return self.local if self.local is not None and layer_type == LOCAL else Terms(self.slots, self.window)

    @property
    def inv_freq(self) -> Float[Tensor, " F"]:
        """Frequencies at the target length, float32, as transformers names them."""
        return self.slots.omega(self.window).float()

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Int[Tensor, "B T"], layer_type: str | None = None) -> Rotation:
        """Tables in float32 at least, whatever the dtype of `x`."""
        slots, window = self.terms(layer_type)
        omega = _frequencies(slots, window, position_ids)
        dtype = torch.promote_types(x.dtype, torch.float32)
        tau = None if slots.scale is None else slots.scale.scale(window, position_ids).to(dtype)
        start = slots.start(window)
        return Rotation(*rotation_tables(omega, position_ids, dtype, start), tau, position_ids, omega, {}, start)

    def extra_repr(self) -> str:
        local = "" if self.local is None else f", local: {self.local.slots}, {self.local.window}"
        return f"{self.slots}, {self.window}{local}"


def _frequencies(slots: Slots, window: Window, positions: Tensor) -> Tensor:
    """`F`, or `B F` where they follow the length: each row counts its own tokens, not its neighbours'."""
    if not slots.follows_length():
        return slots.omega(window).to(positions.device)
    lengths = (positions.max(-1).values + 1).tolist()
    rows = [slots.omega(window.at(max(1, int(length)))) for length in lengths]
    return torch.stack(rows).to(positions.device)
