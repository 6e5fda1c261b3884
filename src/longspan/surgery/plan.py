"""What would be changed in a model, and by which method: read first, written nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from longspan.equation import Method, Slots, Window, fill_slots
from longspan.errors import FamilyError, LengthError, MethodError
from longspan.lengths import format_length
from longspan.registry import format_methods, methods_from_json, methods_to_json, parse_methods
from longspan.surgery.families import Family, family_of, present_scaling, trained_length, window_of

BIAS_KERNELS = ("eager", "sdpa")
"""Attention implementations that take an additive bias."""


@dataclass(frozen=True, slots=True)
class Change:
    """One place in the model and what comes there."""

    where: str
    method: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.where} <- {self.method}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """All changes that applying `methods` to a model makes, collected before the first is made."""

    family: Family
    methods: tuple[Method, ...]
    """All methods in force afterwards, those that were there before included."""
    slots: Slots
    window: Window
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        original, target = (format_length(n) for n in (self.window.original_length, self.window.target_length))
        head = f"{format_methods(self.methods)}: {original} -> {target} tokens, factor {self.window.factor:g}"
        return "\n".join([head, *(str(change) for change in self.changes)])

    def to_json(self) -> dict[str, Any]:
        """The plan as `plan.json` keeps it."""
        return {
            "family": self.family.model_type,
            "methods": methods_to_json(self.methods),
            "original_length": self.window.original_length,
            "target_length": self.window.target_length,
            "changes": [[change.where, change.method, change.detail] for change in self.changes],
        }


def current_methods(model: PreTrainedModel) -> tuple[Method, ...]:
    """The methods in force: those longspan applied, or those that transformers applies by the model's config."""
    saved = getattr(model.config, "longspan", None)
    return present_scaling(model.config) if saved is None else methods_from_json(saved["methods"])


def original_length(model: PreTrainedModel) -> int:
    """Tokens the model was trained on."""
    return trained_length(model.config)


def target_length(model: PreTrainedModel) -> int:
    """Tokens the model is meant to read now."""
    saved = getattr(model.config, "longspan", None)
    return int(saved["target_length"]) if saved is not None else int(model.config.max_position_embeddings)


def plan(
    model: PreTrainedModel,
    methods: Sequence[Method] | str,
    *,
    target_length: int | None = None,
    original_length: int | None = None,
) -> Plan:
    """What `extend` with the same arguments would change.

    Raises:
        MethodError: two methods on one slot, or a method that this model cannot take.
        FamilyError: the family is not supported, or nothing in the model matches.
        LengthError: the target is shorter than the original, or a method needs a target and none is given.
    """
    family = family_of(model)
    added = parse_methods(methods) if isinstance(methods, str) else tuple(methods)
    together = current_methods(model) + added
    slots = fill_slots(together)
    original = trained_length(model.config) if original_length is None else original_length
    target = _target(added, original, target_length)
    window = window_of(model.config, original, target)
    kernel = model.config._attn_implementation
    if slots.bias is not None and kernel not in BIAS_KERNELS:
        name = type(slots.bias).__name__
        raise MethodError(f"{name} adds a bias, which '{kernel}' attention does not take: use eager or sdpa")
    return Plan(family, together, slots, window, _changes(model, family, slots, window))


def _target(added: Sequence[Method], original: int, target: int | None) -> int:
    """The target length, from the argument or from a factor that a method was given.

    A model keeps reading its original length where nothing was asked for; a method that acts through the factor and
    gets none would silently do nothing, so that is an error.
    """
    if target is not None:
        return target
    factors = [factor for method in added if (factor := getattr(method, "factor", None)) is not None]
    if factors:
        return int(original * max(factors))
    for method in added:
        if method.scales_window:
            raise LengthError(f"{type(method).__name__} needs a length to reach: give target_length (--target-length)")
    return original


def _changes(model: PreTrainedModel, family: Family, slots: Slots, window: Window) -> tuple[Change, ...]:
    names = {id(module): name for name, module in model.named_modules()}
    rotary = names[id(model.base_model.rotary_emb)]
    omega = slots.omega(window)  # refuses impossible settings before anything is written
    changes = []
    if slots.frequency is not None:
        slowed = (window.omega / omega) if omega.shape == window.omega.shape and omega.all() else None
        detail = "no pair turns" if not omega.any() else f"{len(omega)} pairs"
        if slowed is not None:
            detail += f", slowed {slowed.min():.4g} to {slowed.max():.4g} times"
        changes.append(Change(f"{rotary}.inv_freq", type(slots.frequency).__name__, detail))
    if slots.scale is not None:
        changes.append(Change(f"{rotary}.tau", type(slots.scale).__name__))
    sites = [name for name, module in model.named_modules() if isinstance(module, family.attention_class)]
    if not sites:
        raise FamilyError(f"no {family.attention_class.__name__} found in the model: nothing to change")
    for name in sites:
        if slots.feature is not None:
            method = type(slots.feature).__name__
            changes += [
                Change(f"{name}.{site}", method) for site in dict.fromkeys((family.query_site, family.key_site))
            ]
        if slots.bias is not None:
            changes.append(Change(f"{name}.bias", type(slots.bias).__name__))
        if slots.follows_length():
            changes.append(Change(f"{name}.cache", type(slots.frequency).__name__, "keys are kept un-rotated"))
    return tuple(changes)
