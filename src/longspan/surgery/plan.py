"""What would be changed in a model, and by which method: read first, written nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from longspan.equation import Method, PartSelection, Selection, Slots, Window, fill_slots
from longspan.errors import CheckpointError, FamilyError, LengthError, MethodError
from longspan.lengths import format_length, parse_length
from longspan.regions import RegionRule
from longspan.registry import format_methods, methods_from_json, methods_to_json, parse_methods
from longspan.surgery.again import check_again, kept_methods, note_on_earlier, without_training
from longspan.surgery.attention import BIAS_KERNELS
from longspan.surgery.families import (
    Family,
    family_of,
    local_terms,
    meant_length,
    present_scaling,
    sites_of,
    slides,
    trained_length,
    window_of,
)
from longspan.surgery.projection import KEYS, check_half
from longspan.surgery.rotary import LOCAL, LongspanRotary, Terms


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
    local: Terms | None = None
    """What holds instead in local layers that rotate by a base of their own."""
    earlier: str = ""
    """What becomes of an earlier extension, in one line."""

    def __str__(self) -> str:
        original, target = (format_length(n) for n in (self.window.original_length, self.window.target_length))
        head = f"{format_methods(self.methods)}: {original} -> {target} tokens, factor {self.window.factor:g}"
        return "\n".join([head, *([self.earlier] if self.earlier else []), *(str(change) for change in self.changes)])

    def saved(self) -> dict[str, Any]:
        """What the config of the patched model keeps, so that the plan can be carried out again."""
        return {
            "methods": methods_to_json(self.methods),
            "original_length": self.window.original_length,
            "target_length": self.window.target_length,
        }

    def to_json(self) -> dict[str, Any]:
        """The plan as `plan.json` keeps it."""
        return {
            "family": self.family.model_type,
            **self.saved(),
            "changes": [[change.where, change.method, change.detail] for change in self.changes],
        }


def current_methods(model: PreTrainedModel) -> tuple[Method, ...]:
    """The methods in force: those longspan applied, or those that transformers applies by the model's config.

    Raises:
        CheckpointError: the config names methods, but the model was built by a class that does not apply them.
    """
    saved = getattr(model.config, "longspan", None)
    if saved is None:
        return present_scaling(model.config)
    if not isinstance(getattr(model.base_model, "rotary_emb", None), LongspanRotary):
        raise CheckpointError(
            f"the config names methods that {type(model).__name__} does not apply: load it by longspan.load "
            "or AutoModelForCausalLM"
        )
    return methods_from_json(saved["methods"])


def original_length(model: PreTrainedModel) -> int:
    """Tokens the model was trained on."""
    return trained_length(model.config)


def target_length(model: PreTrainedModel) -> int:
    """Tokens the model is meant to read now."""
    return meant_length(model.config)


def is_extended(model: PreTrainedModel) -> bool:
    """Whether methods are in force that make the window longer than the one it was trained on."""
    return bool(current_methods(model)) and target_length(model) > original_length(model)


def plan(
    model: PreTrainedModel,
    methods: Sequence[Method] | Method | str,
    *,
    target_length: int | str | None = None,
    original_length: int | str | None = None,
    again: bool = False,
) -> Plan:
    """What `extend` with the same arguments would change.

    Raises:
        MethodError: two methods on one slot, a method that this model cannot take, a model that is extended already
            without `again`, or `again` for one that is not.
        FamilyError: the family is not supported, or nothing in the model matches.
        LengthError: the target is shorter than the original, or a method needs a target and none is given.
    """
    family = family_of(model)
    added = _read(methods)
    fill_slots(added)  # a claim made twice here is told as such
    before = without_training(current_methods(model), added)
    original = trained_length(model.config) if original_length is None else parse_length(original_length)
    target = parse_length(target_length) if target_length is not None else _target(model, before, added, original)
    check_again(model.config, before, added, target, again=again)
    kept = kept_methods(before, added, original, target, again=again)
    together = kept + added
    slots = fill_slots(together)
    window = window_of(model.config, original, target)
    kernel = model.config._attn_implementation
    if slots.bias is not None and kernel not in BIAS_KERNELS:
        name = type(slots.bias).__name__
        raise MethodError(f"{name} adds a bias, which '{kernel}' attention does not take: use eager or sdpa")
    if slots.bands is not None and kernel not in BIAS_KERNELS:
        name = type(slots.bands).__name__
        raise MethodError(f"{name} has a kernel of its own, which takes the masks of eager or sdpa, not of '{kernel}'")
    if slots.selects(training=True) and kernel not in BIAS_KERNELS:
        name = type(slots.selection).__name__
        raise MethodError(f"{name} attends by parts, which '{kernel}' attention cannot: use eager or sdpa")
    local = local_terms(model.config, together, window)
    earlier = note_on_earlier(model.config, before, kept) if again else ""
    found = Plan(family, together, slots, window, _changes(model, family, slots, window, local), local, earlier)
    found.saved()  # refuses methods that could not be saved
    return found


def _read(methods: Sequence[Method] | Method | str) -> tuple[Method, ...]:
    if isinstance(methods, str):
        return parse_methods(methods)
    listed = (methods,) if isinstance(methods, Method) else tuple(methods)
    for method in listed:
        if not isinstance(method, Method):
            raise MethodError(f"{method!r} is not a method: give for example longspan.Yarn() or 'yarn'")
    return listed


def _target(model: PreTrainedModel, before: Sequence[Method], added: Sequence[Method], original: int) -> int:
    """The target length where none is given: by a factor that a method was given, else what it is now.

    A method that acts through the factor and gets none would silently do nothing, so that is an error.
    """
    factors = [factor for method in added if (factor := getattr(method, "factor", None)) is not None]
    if factors:
        return int(original * max(factors))
    for method in added:
        if method.scales_window:
            raise LengthError(f"{type(method).__name__} needs a length to reach: give target_length (--target-length)")
    return max(original, target_length(model)) if before else original


def _changes(
    model: PreTrainedModel, family: Family, slots: Slots, window: Window, local: Terms | None
) -> tuple[Change, ...]:
    omega = slots.omega(window)  # refuses impossible settings before anything is written
    if not (omega.isfinite() & (omega >= 0)).all():
        raise MethodError(f"{slots.frequency} gives frequencies that are negative or not finite")
    rotary = next(name for name, module in model.named_modules() if module is model.base_model) + ".rotary_emb"
    changes = []
    bands = () if slots.bands is None else slots.bands.bands(window)
    if slots.frequency is not None:
        slowed = (window.omega / omega) if omega.shape == window.omega.shape and omega.all() else None
        detail = "no pair turns" if not omega.any() else f"{len(omega)} pairs"
        if slowed is not None:
            detail += f", slowed {slowed.min():.4g} to {slowed.max():.4g} times"
        if local is not None and local.slots.frequency is None:
            detail += "; local layers keep theirs"
        changes.append(Change(f"{rotary}.inv_freq", type(slots.frequency).__name__, detail))
    if slots.scale is not None:
        changes.append(Change(f"{rotary}.tau", type(slots.scale).__name__))
    if slots.position is not None:
        changes.append(Change(f"{rotary}.positions", type(slots.position).__name__, "in training only"))
    for name, module in _sites(model, family).items():
        if slots.feature is not None:
            method, halves = type(slots.feature).__name__, slots.feature.halves_keys()
            if halves:
                check_half(name, module)
            changes += [
                Change(f"{name}.{site}", method, "half as wide" if halves and site == KEYS else "")
                for site in dict.fromkeys(sites_of(module))
            ]
        if slots.bias is not None:
            changes.append(Change(f"{name}.bias", type(slots.bias).__name__))
        if bands and not slides(module):
            changes.append(Change(f"{name}.positions", type(slots.bands).__name__, f"{len(bands)} bands"))
        everywhere = local is None or getattr(module, "layer_type", None) != LOCAL
        selection = (slots.for_local() if slides(module) else slots).selection
        if selection is not None and everywhere:
            detail = _what_is_seen(selection, slots.region_rule(), window)
            changes.append(Change(f"{name}.selection", type(selection).__name__, detail))
        if slots.follows_length() and everywhere:
            changes.append(Change(f"{name}.cache", type(slots.frequency).__name__, "keys are kept un-rotated"))
    far = slots.bands if slots.region_rule() is None else slots.selection
    if far is not None and not any(change.method == type(far).__name__ for change in changes):
        name = type(far).__name__
        raise FamilyError(f"every layer of the model slides: none sees far enough for {name} to act")
    return tuple(changes)


def _what_is_seen(selection: Selection, rule: RegionRule | None, window: Window) -> str:
    if rule is None:
        everything = "" if isinstance(selection, PartSelection) else "all that came before"
        return "in training only" if selection.only_trains() else everything
    front = format_length(rule.sizes.front)
    if window.target_length <= rule.sizes.front:
        return f"without effect: up to {front} tokens are attended densely"
    near, first = (format_length(count * rule.sizes.region) for count in (rule.sizes.local, rule.sizes.sinks))
    parts = [f"the first {first}"] * bool(rule.sizes.sinks) + [f"the {near} before its group"] * bool(rule.sizes.local)
    always = f" ({' and '.join(parts)} in any case)" if parts else ""
    detail = f"{front} keys a query{always}, all of them up to {front} tokens"
    return f"{detail}; looks ahead, so its losses and perplexities say nothing" if rule.looks_ahead else detail


def _sites(model: PreTrainedModel, family: Family) -> dict[str, nn.Module]:
    """The attention modules of a model by name, after making sure that each can be patched."""
    kinds = (family.attention_class, family.patched_class)
    sites = {name: module for name, module in model.named_modules() if isinstance(module, family.attention_class)}
    if not sites:
        raise FamilyError(f"no {family.attention_class.__name__} found in the model: nothing to change")
    for name, module in sites.items():
        if type(module) not in kinds:
            raise FamilyError(
                f"{name} is a {type(module).__name__}, which is not patched: load the model with "
                "attn_implementation='eager'"
            )
        if "forward" in vars(module):
            raise FamilyError(
                f"{name} was already given another forward (by accelerate's dispatch, say): extend the model before, "
                "or save it extended and load it with device_map"
            )
    return sites
