"""Put what a plan says into a model's modules, noting the way back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from longspan.equation import Window, initial_parameters
from longspan.surgery.families import Family, head_dim, slides
from longspan.surgery.plan import Plan
from longspan.surgery.projection import KEYS, HalfKeys
from longspan.surgery.regions import rows_of_mask
from longspan.surgery.rotary import LongspanRotary, Terms
from longspan.surgery.site import ATTRIBUTE, Site


def install(model: PreTrainedModel, plan: Plan, undo: list[Callable[[], None]]) -> None:
    """Put the rotary module and the attention sites of a plan into a model, noting the way back in `undo`."""
    decoder = model.base_model
    undo.append(functools.partial(_put_back, decoder, "rotary_emb", decoder._modules.get("rotary_emb")))
    decoder.rotary_emb = rotary = LongspanRotary(plan.slots, plan.window, plan.local)
    rotary.train(decoder.training)
    sites = [module for module in model.modules() if isinstance(module, plan.family.attention_class)]
    for module in sites:
        _install_site(module, rotary, plan.family, undo)
    rule = plan.slots.region_rule()
    if rule is not None and not any(slides(module) for module in sites):  # layers that slide need the library's masks
        hook = functools.partial(rows_of_mask, front=rule.sizes.front)
        undo.append(decoder.register_forward_pre_hook(hook, with_kwargs=True).remove)


def _put_back(parent: nn.Module, name: str, before: nn.Module | None) -> None:
    if before is None:
        delattr(parent, name)
    else:
        setattr(parent, name, before)


def _install_site(module: nn.Module, rotary: LongspanRotary, family: Family, undo: list[Callable[[], None]]) -> None:
    parameters = site_parameters(module, rotary)
    weight = next(parameter for parameter in module.parameters() if parameter.is_floating_point())
    for name, value in parameters.items():
        if name in module._parameters:  # trained under an earlier patch that this one adds to
            continue
        module.register_parameter(name, nn.Parameter(value.to(weight.device, weight.dtype)))
        undo.append(functools.partial(_drop_parameter, module, name))
    before = type(module)
    undo.append(lambda: setattr(module, "__class__", before))
    undo.append(restore_attribute(module, ATTRIBUTE))
    slots, window = _terms(module, rotary)
    if slots.feature is not None and slots.feature.halves_keys():
        _halve_keys(module, window, undo)
    site = Site(slots, window.rotary_dim, window.layout, tuple(parameters), rotary)
    object.__setattr__(module, ATTRIBUTE, site)
    module.__class__ = family.patched_class


def _halve_keys(module: Any, window: Window, undo: list[Callable[[], None]]) -> None:
    projection = getattr(module, KEYS)
    if isinstance(projection, HalfKeys):  # by an earlier patch that this one adds to
        return
    undo.append(functools.partial(setattr, module, KEYS, projection))
    setattr(module, KEYS, HalfKeys(projection, head_dim(module.config), window.rotary_dim, window.layout))


def _terms(module: nn.Module, rotary: LongspanRotary) -> Terms:
    slots, window = rotary.terms(getattr(module, "layer_type", None))
    return Terms(slots.for_local() if slides(module) else slots, window)


def site_parameters(module: nn.Module, rotary: LongspanRotary) -> dict[str, Tensor]:
    """The learned tensors that a feature adds to one attention module, at their initial values."""
    slots, window = _terms(module, rotary)
    config: Any = module.config
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return initial_parameters(slots, heads, window.rotary_dim)


def _drop_parameter(module: nn.Module, name: str) -> None:
    del module._parameters[name]


def restore_attribute(target: object, name: str) -> Callable[[], None]:
    """A function that sets attribute `name` back to what it is now, or removes it if it is not there."""
    present = name in vars(target)
    value = vars(target).get(name)

    def restore() -> None:
        if present:
            object.__setattr__(target, name, value)
        elif name in vars(target):
            object.__delattr__(target, name)

    return restore
