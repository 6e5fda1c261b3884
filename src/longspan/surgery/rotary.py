"""The rotary module of a patched model: frequencies, temperature and positions of one forward pass."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from longspan.equation import Slots, Window, rotation_tables


class LongspanRotary(nn.Module):
    """Stands where the family's rotary module stood; attention modules ask it for what depends on positions.

    It holds no buffer, since a buffer could be lost on the meta device or be cast to bf16 with the model.
    """

    def __init__(self, slots: Slots, window: Window):
        super().__init__()
        self.slots = slots
        self.window = window
        self.positions: Tensor | None = None
        self.tau: Tensor | None = None
        self._omega: Tensor | None = None
        self._static: Tensor | None = None
        self._key_tables: tuple[Tensor, Tensor] | None = None

    @property
    def inv_freq(self) -> Float[Tensor, " F"]:
        """Frequencies at the target length, float32, as transformers names them."""
        return self.slots.omega(self.window).float()

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Int[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        """cos and sin, `B T F`, in float32 at least; keeps what the keys of this pass will need."""
        self.positions = position_ids
        self._omega = self._frequencies(position_ids)
        self._key_tables = None
        self.tau = None
        if self.slots.scale is not None:
            self.tau = self.slots.scale.scale(self.window, position_ids).float()
        return rotation_tables(self._omega, position_ids, torch.promote_types(x.dtype, torch.float32))

    def _frequencies(self, positions: Tensor) -> Tensor:
        """`F`, or `B F` where they follow the length: each row counts its own tokens, not its neighbours'."""
        if not self.slots.follows_length():
            if self._static is None or self._static.device != positions.device:
                self._static = self.slots.omega(self.window).to(positions.device)
            return self._static
        lengths = (positions.max(-1).values + 1).tolist()
        rows = [self.slots.omega(self.window.at(max(1, int(length)))) for length in lengths]
        return torch.stack(rows).to(positions.device)

    def key_positions(self, keys: int) -> Int[Tensor, "B S"]:
        """Positions of the last `keys` tokens: this call's, and before them the ones that led up to its first."""
        assert self.positions is not None, "the rotary module has not run yet"
        earlier = keys - self.positions.shape[-1]
        if earlier <= 0:
            return self.positions[:, -keys:]
        steps = torch.arange(earlier, 0, -1, device=self.positions.device)
        return torch.cat((self.positions[:, :1] - steps, self.positions), dim=-1)

    @torch.no_grad()
    def key_tables(self, keys: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin of all cached keys by the frequencies of this pass, made once for all layers."""
        assert self._omega is not None, "the rotary module has not run yet"
        if self._key_tables is None or self._key_tables[0].shape[-2] != keys:
            dtype = torch.promote_types(dtype, torch.float32)
            self._key_tables = rotation_tables(self._omega, self.key_positions(keys), dtype)
        return self._key_tables

    def extra_repr(self) -> str:
        return f"{self.slots}, {self.window}"
