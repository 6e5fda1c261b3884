"""Patched models on disk: a model_type of their own, so that they never load silently as the plain model."""

from __future__ import annotations

import functools
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from longspan.equation import fill_slots
from longspan.errors import CheckpointError
from longspan.registry import methods_from_json
from longspan.surgery.families import FAMILIES, PREFIX, Family, local_terms, window_of
from longspan.surgery.install import install, site_parameters
from longspan.surgery.plan import Plan
from longspan.surgery.rotary import LongspanRotary


@functools.cache
def patched_classes(family: Family) -> tuple[type[PreTrainedConfig], type[PreTrainedModel]]:
    """The config and model class under which patched models of a family are saved and loaded."""
    name = f"Longspan{family.class_prefix}"
    config_class = type(
        f"{name}Config",
        (family.config_class,),
        {"model_type": PREFIX + family.model_type, "__module__": __name__, "__doc__": "A config with its methods."},
    )

    def build(self: PreTrainedModel, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        family.model_class.__init__(self, config, *args, **kwargs)
        install_saved(self, family)

    def initialize_weights(self: PreTrainedModel) -> None:
        family.model_class.initialize_weights(self)
        rotary = getattr(self.base_model, "rotary_emb", None)
        if not isinstance(rotary, LongspanRotary):  # still being built
            return
        for module in self.modules():
            if isinstance(module, family.attention_class):
                for name, value in site_parameters(module, rotary).items():
                    parameter = module.get_parameter(name)
                    if not getattr(parameter, "_is_hf_initialized", False):  # the checkpoint lacks it
                        parameter.data.copy_(value)

    model_class = type(
        f"{name}ForCausalLM",
        (family.model_class,),
        {
            "__init__": build,
            "initialize_weights": initialize_weights,
            "config_class": config_class,
            "__module__": __name__,
            "__doc__": "A causal language model that applies the methods in its config.",
        },
    )
    globals().update(
        {config_class.__name__: config_class, model_class.__name__: model_class}
    )  # pickling finds classes by module and name
    return config_class, model_class


def install_saved(model: PreTrainedModel, family: Family) -> None:
    """Apply the methods that a config names to a freshly built model, before its weights are loaded.

    Raises:
        CheckpointError: the config does not name its methods.
        MethodError: it names one that is not installed.
    """
    saved: Any = getattr(model.config, "longspan", None)
    if not _is_whole(saved):
        raise CheckpointError(
            f"a config of type '{model.config.model_type}' must name its methods and lengths under 'longspan': "
            "config.json is damaged or was edited; save the model again"
        )
    methods = methods_from_json(saved["methods"])
    window = window_of(model.config, saved["original_length"], saved["target_length"])
    local = local_terms(model.config, methods, window)
    install(model, Plan(family, methods, fill_slots(methods), window, (), local), [])


def _is_whole(saved: Any) -> bool:
    if not isinstance(saved, dict) or not isinstance(saved.get("methods"), list):
        return False
    lengths = (saved.get("original_length"), saved.get("target_length"))
    return all(isinstance(length, int) for length in lengths) and all(isinstance(x, dict) for x in saved["methods"])


def register() -> None:
    """Make `AutoConfig` and `AutoModelForCausalLM` know the patched classes; calling it again does nothing new."""
    for family in FAMILIES.values():
        config_class, model_class = patched_classes(family)
        AutoConfig.register(PREFIX + family.model_type, config_class, exist_ok=True)
        AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
        conversion = get_checkpoint_conversion_mapping(family.model_type)
        if conversion is not None:  # experts, which lie one by one on disk and as one tensor in the model
            register_checkpoint_conversion_mapping(PREFIX + family.model_type, conversion, overwrite=True)
