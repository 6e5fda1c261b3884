"""A layer of a cache that grows in place: a decoding step writes its own token and copies nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

SPARE = 8
"""A room is made longer than what it holds by one token in so many."""
LEAST = 64
"""The least number of tokens that a room has to spare when it is made; its length is a multiple of it."""
ALIGNED = 8
"""Elements that a row takes up a multiple of on a GPU: 16 bytes of the shorter float types."""


class GrowingLayer(DynamicLayer):
    """transformers' growing layer with room to spare.

    That one makes new tensors for the whole cache at each step, which on processors takes longer than attention to it.
    Here keys and values are the front of a tensor that is an eighth longer; when it is full, a longer one is made. A
    cropped layer goes on in its room; rows that were reordered, repeated or selected are other tensors, and get a room
    of their own at the next step.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._rooms: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As the library's, and exactly that where gradients may be recorded or a compiler looks on."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():  # a backward pass may need what is held now
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys: Tensor = self._appended("keys", self.keys, key_states)
        values: Tensor = self._appended("values", self.values, value_states)
        self.keys, self.values = keys, values
        return keys, values

    def reset(self) -> None:
        """As the library's; the rooms are given back."""
        super().reset()
        self._rooms = {}

    def _appended(self, name: str, held: Tensor, new: Tensor) -> Tensor:
        count = held.shape[-2] if held.numel() else 0
        end = count + new.shape[-2]
        room = self._rooms.get(name)
        if room is None or end > room.shape[-2] or not _is_front(held, room) or not _is_writable(room):
            room = _room(new, end + max(LEAST, end // SPARE))
            if count:
                room[..., :count, :] = held
            self._rooms[name] = room
        room[..., count:end, :] = new
        return room[..., :end, :]


def _room(like: Tensor, tokens: int) -> Tensor:
    """For at least so many tokens; on a GPU rows start where it reads 16 bytes at once, as do heads."""
    *outer, _, width = like.shape
    tokens = -(-tokens // LEAST) * LEAST
    padded = -(-width // ALIGNED) * ALIGNED if like.is_cuda else width
    return like.new_empty(*outer, tokens, padded)[..., :width]


def _is_front(held: Tensor, room: Tensor) -> bool:
    """Whether `held` is the first tokens of `room`, at the same place in memory."""
    if held.data_ptr() != room.data_ptr() or held.dtype != room.dtype or held.dim() != room.dim():
        return False
    return held.stride() == room.stride() and held.shape[:-2] == room.shape[:-2] and held.shape[-1] == room.shape[-1]


def _is_writable(room: Tensor) -> bool:
    """What was made in inference mode can only be written there."""
    return torch.is_inference_mode_enabled() or not room.is_inference()
