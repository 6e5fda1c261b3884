"""The rotary module of a patched model: what depends on positions, made once for each forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache

from longspan.equation import Band, Slots, Window
from longspan.errors import MethodError
from longspan.kernels.half_width import KeyTurns
from longspan.rotation import Start, rotation_tables


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
    key_turns: dict[tuple[int, int], tuple[Tensor | None, KeyTurns]]
    """The same for keys that turn while they are read, by their number and the identity of the mask over them, which
    is kept beside so that no other takes its place."""
    start: Start | None = None
    """Positions that turn at a speed of their own."""
    bands: tuple[Band, ...] = ()
    """Bands of keys with positions of their own."""
    keys_turn_late: bool = False
    """Whether the cache in use keeps keys un-rotated, whatever the frequencies do."""
    cache: Cache | None = None
    """The cache of this pass."""

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


class TrainingStep(NamedTuple):
    """What holds in one training step where a method gives positions to the windows."""

    positions: Int[Tensor, "B T"]
    step: int
    """Optimizer steps done before, counted over the whole run."""


class LongspanRotary(nn.Module):
    """Stands where the family's rotary module stood.

    It holds no buffer, since a buffer could be lost on the meta device or be cast to bf16 with the model.
    """

    given: TrainingStep | None = None
    """Set by `placed`; without effect in evaluation mode."""
    total: int = 0
    """Set by `counted`: tokens that the input has at least, whatever the positions of this pass are."""

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
        """Tables in float32 at least, whatever the dtype of `x`.

        Raises:
            MethodError: the model is in training mode under a method that needs positions, and was given none.
        """
        slots, window = self.terms(layer_type)
        if self.training and slots.position is not None:
            position_ids, step = self._in_training(position_ids)
            omega = slots.omega(window, step).to(position_ids.device)
        else:
            omega = _frequencies(slots, window, position_ids, self.total)
        dtype = torch.promote_types(x.dtype, torch.float32)
        tau = None if slots.scale is None else slots.scale.scale(window, position_ids).to(dtype)
        start = slots.start(window)
        bands = () if slots.bands is None else slots.bands.bands(window)
        return Rotation(
            *rotation_tables(omega, position_ids, dtype, start), tau, position_ids, omega, {}, {}, start, bands
        )

    def _in_training(self, position_ids: Tensor) -> TrainingStep:
        """The positions given for this pass, in place of those that the masks are made from."""
        given = self.given
        if given is None:
            name = type(self.slots.position).__name__
            raise MethodError(
                f"{name} acts in training through positions that come with each batch, and none came: train with "
                "`longspan train` (pose(chunks=1) trains plainly), hand them over with longspan.surgery.placed, or "
                "call model.eval()"
            )
        assert given.positions.shape[-1] == position_ids.shape[-1], "positions of another batch"
        return given._replace(positions=given.positions.to(position_ids.device))

    def extra_repr(self) -> str:
        local = "" if self.local is None else f", local: {self.local.slots}, {self.local.window}"
        return f"{self.slots}, {self.window}{local}"


@contextlib.contextmanager
def placed(model: nn.Module, positions: Int[Tensor, "B T"] | None, step: int = 0) -> Iterator[None]:
    """In training mode, `model` turns by these positions until the end: the backward pass belongs inside, too.

    They go to the rotary module alone, since transformers reads a jump in `position_ids` as the border between two
    documents. The model must have a method that gives positions, and each forward takes a batch of this shape.

    Args:
        positions: None leaves the model as it is.
        step: optimizer steps done before, for methods that change while training.
    """
    if positions is None:
        yield
        return
    found = [module for module in model.modules() if isinstance(module, LongspanRotary)]
    assert found, "the model was not extended: nothing takes the positions"
    for module in found:
        module.given = TrainingStep(positions, step)
    try:
        yield
    finally:
        for module in found:
            module.given = None


@contextlib.contextmanager
def counted(model: nn.Module, length: int) -> Iterator[None]:
    """Inside, passes are parts of an input of `length` tokens: frequencies that follow the length follow it."""
    found = [module for module in model.modules() if isinstance(module, LongspanRotary)]
    for module in found:
        module.total = length
    try:
        yield
    finally:
        for module in found:
            module.total = 0


def _frequencies(slots: Slots, window: Window, positions: Tensor, total: int) -> Tensor:
    """`F`, or `B F` where they follow the length: each row counts its own tokens, not its neighbours'."""
    if not slots.follows_length():
        return slots.omega(window).to(positions.device)
    lengths = (positions.max(-1).values + 1).tolist()
    rows = [slots.omega(window.at(max(1, total, int(length)))) for length in lengths]
    return torch.stack(rows).to(positions.device)
