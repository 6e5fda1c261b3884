"""What the equation and the config say of a model: the terms of each layer, and what must then hold."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from longspan.doctor.finding import DoesNotApply
from longspan.doctor.plain import library_class
from longspan.doctor.probe import LENGTH, Probe
from longspan.doctor.tap import rotary_modules
from longspan.equation import Band, Method, Slots, Window
from longspan.reference import reference_attention
from longspan.surgery.families import local_terms, slides

FREQUENCY_ERROR = 5e-5
"""Relative. float32 powers are off by 1e-6, frequencies in float16 by up to 5e-4, in bf16 by 4e-3."""


def terms(probe: Probe, layer_type: str | None = None) -> tuple[Slots, Window]:
    """Slots and window of the layers of a type, told from the config alone."""
    local = local_terms(probe.model.config, probe.methods, probe.window)
    if local is not None and layer_type == "sliding_attention":
        return local.slots, local.window
    return probe.slots, probe.window


def filled(slots: Slots) -> tuple[Method, ...]:
    """The methods in the slots, each once."""
    found = [method for name in Slots.__dataclass_fields__ if (method := getattr(slots, name)) is not None]
    return tuple(dict.fromkeys(found))


def rotaries(probe: Probe) -> list[tuple[nn.Module, str | None]]:
    """Each rotary module with each layer type that it serves."""
    found: list[tuple[nn.Module, str | None]] = []
    for module in rotary_modules(probe.model):
        nested = "layer_type" in inspect.signature(type(module).forward).parameters
        kinds = sorted(set(getattr(probe.model.config, "layer_types", None) or [])) if nested else []
        found += [(module, kind) for kind in kinds or [None]]
    if not found:
        raise DoesNotApply(f"{library_class(probe.model).__name__} has no rotary module to measure")
    return found


def tables(probe: Probe, module: nn.Module, layer_type: str | None, positions: Tensor, dtype: torch.dtype) -> Any:
    """cos and sin `T F` of each pair, as the rotary module makes them for hidden states of `dtype`."""
    x = torch.zeros(1, positions.shape[-1], 1, dtype=dtype, device=probe.device)
    made = module(x, positions) if layer_type is None else module(x, positions, layer_type)
    return tuple(_one_a_pair(table[0], probe, layer_type) for table in made[:2])


def _one_a_pair(table: Tensor, probe: Probe, layer_type: str | None) -> Tensor:
    """transformers repeats the angles for the two members of a pair; longspan does not."""
    slots, window = terms(probe, layer_type)
    pairs = len(slots.omega(window))
    if table.shape[-1] != 2 * pairs:
        return table
    return table[:, :pairs] if window.layout == "half" else table[:, 0::2]


def same_as_plain(probe: Probe, positions: Tensor) -> bool:
    """Whether the formulas say that nothing changes at these positions."""
    slots, window = probe.slots, probe.window.at(int(positions.max()) + 1)
    if slots.feature is not None or slots.bias is not None:
        return False
    rule = slots.region_rule()
    if rule is not None and positions.shape[-1] > rule.sizes.front:
        return False
    if slots.bands is not None and not _bands_are_plain(slots.bands.bands(window), positions):
        return False
    omega = slots.omega(window)
    scaled = slots.scale is not None and bool((slots.scale.scale(window, positions) - 1).abs().max() > 1e-9)
    return not scaled and bool((omega / window.omega - 1).abs().max() < 1e-9)


def layer_terms(probe: Probe, module: nn.Module) -> tuple[Slots, Window]:
    """Slots and window of one attention module; some methods are for layers that see the whole past."""
    slots, window = terms(probe, getattr(module, "layer_type", None))
    return (slots.for_local() if slides(module) else slots), window


def _distances(bands: Sequence[Band], positions: Tensor) -> Tensor:
    """What the bands take for the distance of query and key at `1 T` positions, `T T`; nan where a key is not seen."""
    query, key = positions[0], positions[0]
    found = torch.full((len(query), len(key)), torch.nan, dtype=torch.float64)
    for band in bands:
        within = (key >= band.first(query)[:, None]) & (key <= band.last(query)[:, None])
        rel = band.query(query).double()[:, None] - band.key(key).double()
        found = torch.where(within.cpu(), rel.cpu(), found)
    return found.tril()


def _bands_are_plain(bands: Sequence[Band], positions: Tensor) -> bool:
    """Whether every key is seen where it stands."""
    plain = (positions[0][:, None] - positions[0]).double().tril().cpu()
    return bool((_distances(bands, positions) == plain).all())


def relative(probe: Probe, shift: int) -> bool:
    """Whether the equation itself, in float64, does not notice that all positions are shifted."""
    slots, window = probe.slots, probe.window
    if slots.follows_length() or slots.start(window) is not None:
        return False
    positions = torch.arange(LENGTH)
    if slots.scale is not None:
        before, after = (slots.scale.scale(window, positions + moved) for moved in (0, shift))
        if not torch.allclose(before, after):
            return False
    if slots.bands is not None:
        here, there = (_distances(slots.bands.bands(window), p[None]) for p in (positions, positions + shift))
        if not torch.equal(here.nan_to_num(nan=-1.0), there.nan_to_num(nan=-1.0)):
            return False
    if slots.feature is None:
        return True
    return _feature_is_relative(slots, window, positions, shift)


def _feature_is_relative(slots: Slots, window: Window, positions: Tensor, shift: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, LENGTH, window.rotary_dim, generator=generator, dtype=torch.float64) for _ in range(2))
    value = torch.eye(LENGTH, dtype=torch.float64)[None, None]
    found = [
        reference_attention(q, k, value, methods=filled(slots), window=window, query_positions=p, key_positions=p)
        for p in (positions, positions + shift)
    ]
    return bool((found[0] - found[1]).abs().max() < 1e-8)
