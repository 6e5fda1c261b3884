"""The check of a method's formula against transformers' own implementation of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longspan.doctor.claims import FREQUENCY_ERROR
from longspan.doctor.finding import DoesNotApply, Finding, at_most
from longspan.doctor.probe import Probe
from longspan.doctor.registry import check
from longspan.equation import Frequency, Scale, Window
from longspan.registry import format_methods, name_of


@check(
    holds="frequencies and temperature of the method's formula equal those of transformers' own implementation",
    advice="the formula of the method is wrong: compare its file with its card (longspan methods NAME)",
)
def formula(probe: Probe) -> Finding:
    """Does the formula agree with another implementation of it?"""
    method = probe.slots.frequency
    if method is None:
        raise DoesNotApply("no method changes the frequencies")
    window = replace(probe.window, rotary_dim=probe.slots.rotary_dim(probe.window.rotary_dim))
    omega = probe.slots.omega(probe.window)
    other = _COUNTERPARTS.get(name_of(method), lambda *_: None)(method, window)
    if other is None:
        return _contract(method, window, omega)
    error = float((omega / other[0].double() - 1).abs().max())
    if isinstance(method, Scale):
        tau = float(method.scale(window, torch.zeros(1, dtype=torch.long)))
        error = max(error, abs(tau / other[1] ** 2 - 1))
    return at_most(error, FREQUENCY_ERROR, f"{format_methods([method])}: largest relative difference from transformers")


def _contract(method: Frequency, window: Window, omega: Tensor) -> Finding:
    """What every scaling promises: no pair turns faster than before, none is slowed more than the factor."""
    if not method.scales_window:
        raise DoesNotApply(f"{type(method).__name__} has no counterpart in transformers and scales no window")
    slowed = window.omega / omega
    factor = getattr(method, "factor", None) or window.factor
    outside = max(1 - float(slowed.min()), float(slowed.max()) / (1.25 * factor) - 1, float(-slowed.diff().min()))
    detail = "no counterpart in transformers: pairs are slowed 1 to 1.25 factor times, slow ones no less than fast ones"
    return at_most(max(0.0, outside), FREQUENCY_ERROR, detail)


def _rope(window: Window, length: int, **rope: Any) -> LlamaConfig:
    config = LlamaConfig(
        hidden_size=window.rotary_dim,
        num_attention_heads=1,
        max_position_embeddings=length,
        rope_parameters={"rope_type": "default", "rope_theta": window.base},
    )
    config.rope_parameters = {"rope_theta": window.base, **rope}
    return config


def _scaled(window: Window, **rope: Any) -> tuple[Tensor, float]:
    length = window.target_length if "original_max_position_embeddings" in rope else window.original_length
    config = _rope(window, length, **rope)
    return ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"), seq_len=window.target_length)


def _factor(method: Any, window: Window) -> float:
    return method.factor or window.factor


def _ntk(method: Any, window: Window) -> tuple[Tensor, float]:
    factor = _factor(method, window)  # transformers' dynamic type with factor 1 is the fixed form at factor lengths
    config = _rope(window, window.original_length, rope_type="dynamic", factor=1.0)
    length = torch.tensor(factor * window.original_length)
    return ROPE_INIT_FUNCTIONS["dynamic"](config, torch.device("cpu"), seq_len=length)


def _dynamic(method: Any, window: Window) -> tuple[Tensor, float]:
    return _scaled(window, rope_type="dynamic", factor=_factor(method, window))


def _yarn(method: Any, window: Window) -> tuple[Tensor, float] | None:
    if method.ramp == "harmonic":
        return None
    if method.ramp == "turns":  # the same blend as Llama 3's, with other ends
        omega, _ = _by_turns(window, _factor(method, window), method.beta_slow, method.beta_fast)
        root = method.attention_factor
        return omega, 0.1 * math.log(_factor(method, window)) + 1 if root is None else root
    return _scaled(
        window,
        rope_type="yarn",
        factor=_factor(method, window),
        original_max_position_embeddings=window.original_length,
        beta_fast=method.beta_fast,
        beta_slow=method.beta_slow,
        attention_factor=method.attention_factor,
        truncate=method.truncate,
    )


def _by_turns(window: Window, factor: float, low: float, high: float) -> tuple[Tensor, float]:
    return _scaled(
        window,
        rope_type="llama3",
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position_embeddings=window.original_length,
    )


def _llama3(method: Any, window: Window) -> tuple[Tensor, float]:
    return _by_turns(window, _factor(method, window), method.low_freq_factor, method.high_freq_factor)


def _long_rope(method: Any, window: Window) -> tuple[Tensor, float] | None:
    if method.short_factor is None or method.long_factor is None:  # factors that only longspan knows
        return None
    return _scaled(
        window,
        rope_type="longrope",
        factor=window.factor,
        short_factor=list(method.short_factor),
        long_factor=list(method.long_factor),
        attention_factor=method.attention_factor,
        original_max_position_embeddings=window.original_length,
    )


def _base_change(method: Any, window: Window) -> tuple[Tensor, float]:
    config = _rope(window, window.original_length, rope_type="default")
    config.rope_parameters["rope_theta"] = method.base
    return LlamaRotaryEmbedding.compute_default_rope_parameters(config)


_COUNTERPARTS: dict[str, Callable[[Any, Window], tuple[Tensor, float] | None]] = {
    "pi": lambda method, window: _scaled(window, rope_type="linear", factor=_factor(method, window)),
    "ntk": _ntk,
    "dynamic_ntk": lambda method, window: None if isinstance(method.static_for, int) else _dynamic(method, window),
    "yarn": _yarn,
    "llama3": _llama3,
    "long_rope": _long_rope,
    "base_change": _base_change,
}
"""How transformers computes the same: frequencies, and what it multiplies cos and sin by."""
