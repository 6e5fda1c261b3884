"""Other views of a model that share its weights, so that none of them costs memory for weights."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from longspan.surgery.projection import full_width_state

_NOT_OF_THE_MODEL = ("longspan", "model_type", "architectures", "auto_map", "transformers_version", "_name_or_path")


def library_class(thing: object) -> type[Any]:
    """The class of transformers itself that an object is of, below everything that others put on top."""
    found = [kind for kind in type(thing).__mro__ if kind.__module__.startswith("transformers.models.")]
    return found[0] if found else type(thing)


def plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config with default rope and no methods; the length stays, which families with tables of positions need."""
    values = {name: value for name, value in config.to_dict().items() if name not in _NOT_OF_THE_MODEL}
    if getattr(config, "rope_parameters", None):
        values["rope_parameters"] = without_scaling(config.rope_parameters)
    return library_class(config)(**values)


def without_scaling(rope: dict[str, Any]) -> dict[str, Any]:
    """Rope parameters of type default that keep rope_theta and the rotated share, for each layer type if nested."""
    if any(isinstance(value, dict) for value in rope.values()):
        return {kind: without_scaling(value) for kind, value in rope.items() if isinstance(value, dict)}
    kept = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if rope.get(name) is not None}
    return {"rope_type": "default", **kept}


def plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """transformers' own model with the weights of `model` (shared; half key projections widened) and no extension."""
    config = plain_config(model.config)
    with torch.device("meta"):
        plain = library_class(model)(config)
    plain.load_state_dict(full_width_state(model), strict=False, assign=True)
    _fill_buffers(plain, model)
    plain.config._attn_implementation = model.config._attn_implementation
    return plain.train(model.training)


def _fill_buffers(plain: PreTrainedModel, model: PreTrainedModel) -> None:
    """Buffers that no checkpoint holds: shared where `model` has them too, else made by their module's constructor.

    Those of rotary modules are always made anew: the model's may be scaled.
    """
    there = dict(model.named_buffers())
    for name, module in list(plain.named_modules()):
        prefix = f"{name}." if name else ""
        missing = {key: buffer.shape for key, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        rotary = type(module).__name__.endswith("RotaryEmbedding")
        shared = {key: there[prefix + key] for key in missing if prefix + key in there and not rotary}
        if any(key not in shared or shared[key].shape != shape for key, shape in missing.items()):
            place = {"layer_idx": module.layer_idx} if hasattr(module, "layer_idx") else {}
            made = type(module)(plain.config, **place)
            shared = {key: buffer.to(model.device) for key, buffer in made.named_buffers()}
        for key in missing:
            module._buffers[key] = shared[key]


def shared_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model's modules and config with the very same tensors in it."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def shallow_copy(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """`shared_copy` of the first layers only."""
    copied = shared_copy(model)
    depth = copied.config.num_hidden_layers
    if depth <= layers:
        return copied
    stacks = [part for part in copied.base_model.children() if isinstance(part, nn.ModuleList) and len(part) == depth]
    for stack in stacks:
        del stack[layers:]
    copied.config.num_hidden_layers = layers
    kinds = getattr(copied.config, "layer_types", None)
    if kinds is not None:
        copied.config.layer_types = list(kinds[:layers])
    return copied
