"""What one attention module keeps of its methods, and how a cached key carries its position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.equation import Slots
from longspan.rotation import Layout
from longspan.surgery.rotary import LongspanRotary, Rotation

ATTRIBUTE = "longspan"
"""Where an attention module keeps its `Site`, and under which name a `Rotation` travels to the attention function."""
POSITION_COLUMNS = 3
"""Cached keys that need their position later carry it as digits of base 256, which every float type holds exactly."""


@dataclass(eq=False, slots=True)
class Site:
    """What one attention module needs at the place where q and k meet RoPE."""

    slots: Slots
    rotary_dim: int
    """R of the model: features act on these elements, the rest of a head passes."""
    layout: Layout
    parameters: tuple[str, ...] = ()
    """Names of the feature's learned tensors on the attention module."""
    rotary: LongspanRotary | None = None
    """What makes the rotation, for families whose layers are handed positions and no rotation."""

    def turns_late(self, rotation: Rotation) -> bool:
        """Whether keys are cached un-rotated: the only way that cached keys follow changing frequencies, or bands."""
        late = self.slots.follows_length() or rotation.keys_turn_late
        return late or self.slots.bands is not None or self.chooses_still()

    def chooses_still(self) -> bool:
        """Whether regions are chosen by un-rotated queries and keys, which turn afterwards."""
        rule = self.slots.region_rule()
        return rule is not None and rule.turns_late

    def keeps_positions(self, rotation: Rotation) -> bool:
        """Whether the position of a cached key is needed again: any cache, hole or order of keys is then right."""
        return self.turns_late(rotation) or self.slots.bias is not None


def seen_by_mask(mask: Tensor) -> Tensor:
    """True where a key is seen, from either form of a mask."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def with_positions(key: Tensor, positions: Tensor, rest: int) -> Tensor:
    """Keys `B G T W` with their positions `B T` behind the part that turns.

    The `rest` elements that pass come last, as in families that take them off before RoPE and append them afterwards.
    """
    digits = torch.stack([positions >> shift & 255 for shift in (16, 8, 0)], dim=-1).to(key.dtype)
    turning, passing = key.tensor_split((key.shape[-1] - rest,), dim=-1)
    return torch.cat((turning, digits[:, None].expand(*key.shape[:-1], POSITION_COLUMNS), passing), dim=-1)


def without_positions(key: Tensor, rest: int) -> tuple[Tensor, Tensor]:
    """The inverse of `with_positions`."""
    turning, digits, passing = split_key(key, rest)
    # a kernel that takes a mask wants rows that start on an even address
    bare = torch.cat((turning, passing), dim=-1) if rest else turning.contiguous()
    return bare, positions_of(digits)


def split_key(key: Tensor, rest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The part of cached keys that turns, the digits of their positions, and what passes: views."""
    end = key.shape[-1] - rest
    turning, digits, passing = key.tensor_split((end - POSITION_COLUMNS, end), dim=-1)
    return turning, digits, passing


def positions_of(digits: Tensor) -> Tensor:
    """Positions `B S` from their digits `B G S 3`, which all heads share."""
    high, middle, low = digits[:, 0].long().unbind(-1)
    return (high << 16) + (middle << 8) + low
