"""Caches and decoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer

from conftest import TRAIN_LENGTH
from doctor.faults.fault import fault
from doctor.faults.tools import by_transformers, change_inputs, change_rotation, rotary_of, turn_by
from longspan.equation import Window
from longspan.surgery.rotary import Rotation


@fault("", "stale_keys", "no_memory")
def dynamic_by_transformers(model: Any, _: Any) -> PreTrainedModel:
    """transformers' own dynamic NTK: cached keys keep the base of their time, and a long input raises it for good."""
    return by_transformers(model, TRAIN_LENGTH, rope_type="dynamic", rope_theta=10000.0, factor=4.0)


@fault("dynamic_ntk(factor=4.0)", "stale_keys")
def keys_turned_by_an_old_base(model: Any, _: Any) -> None:
    """Keys are turned by the frequencies of the first pass, whatever the length is by now."""
    first: list[Tensor] = []

    def keep(rotation: Rotation, positions: Tensor) -> Rotation:
        first[:] = first if positions.shape[1] == 1 and first else [rotation.omega]
        cached = rotation._replace(omega=first[0], key_tables={})
        return rotation._replace(key_tables=_Fixed(cached, positions))

    change_rotation(model, keep)


class _Fixed(dict):
    """Tables of keys that were made from other frequencies."""

    def __init__(self, rotation: Rotation, positions: Tensor):
        last = int(positions.max())
        for keys in range(positions.shape[1], last + 2):
            spread = torch.arange(last + 1 - keys, last + 1)[None]
            self[keys] = Rotation.of_keys(rotation._replace(key_tables={}), spread)


@fault("dynamic_ntk(factor=4.0)", "no_memory")
def base_never_shrinks(model: Any, _: Any) -> None:
    """The base follows the longest input so far and not the present one."""
    method = rotary_of(model).slots.frequency
    longest = [0]

    def sticky(window: Window) -> Tensor:
        longest[0] = max(longest[0], window.length or 0)
        return method.frequency(window.at(longest[0]))

    turn_by(model, sticky)


@fault("yarn", "cached_decode", "decode_across")
def decoding_one_position_off(model: Any, _: Any) -> None:
    """Positions of cached decoding are one too far."""

    def change(kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            kwargs["position_ids"] = kwargs["position_ids"] + 1

    change_inputs(model, change)


@fault("yarn", "cached_decode")
def decoding_positions_restart(model: Any, _: Any) -> None:
    """Each piece that is read through a cache counts its positions from 0."""

    def change(kwargs: dict[str, Any]) -> None:
        if kwargs.get("past_key_values") is not None:
            kwargs["position_ids"] = torch.arange(kwargs["position_ids"].shape[1])[None]

    change_inputs(model, change)


@fault("yarn", "decode_across")
def tables_change_at_the_original_length(model: Any, _: Any) -> None:
    """Short inputs turn by the plain frequencies, and keys cached then stay as they are."""
    rotary = rotary_of(model)

    def choose(rotation: Rotation, positions: Tensor) -> Rotation:
        if int(positions.max()) >= TRAIN_LENGTH:
            return rotation
        angles = positions[..., None].double() * rotary.window.omega
        return rotation._replace(cos=angles.cos().float(), sin=angles.sin().float())

    change_rotation(model, choose)


@fault("yarn", "cropped_cache")
def positions_counted_beside_the_cache(model: Any, _: Any) -> None:
    """The model counts decoded tokens itself and does not notice that the cache was cut back."""
    count = [0]

    def change(kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        if cache is None:
            return
        start = count[0] if cache.get_seq_length() else 0
        length = kwargs["position_ids"].shape[1]
        kwargs["position_ids"] = torch.arange(start, start + length)[None]
        count[0] = start + length

    change_inputs(model, change)


@fault("yarn", "generation")
def generated_positions_off(model: Any, _: Any) -> None:
    """generate counts new tokens one place too far, although a plain pass with a cache is right."""
    prepare = model.prepare_inputs_for_generation

    def prepared(input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        inputs = prepare(input_ids, **kwargs)
        if inputs["input_ids"].shape[1] == 1:
            inputs["position_ids"] = inputs["position_ids"] + 1
        return inputs

    model.prepare_inputs_for_generation = prepared


@fault("yarn", "generation")
def beams_not_reordered(model: Any, monkeypatch: Any) -> None:
    """Beams swap places and the cache does not follow them."""
    monkeypatch.setattr(DynamicLayer, "reorder_cache", lambda self, beam_idx: None)
