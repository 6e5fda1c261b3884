"""vLLM's entry point: models that longspan saved are served by vLLM's Transformers backend.

vLLM calls `register` in each of its processes when longspan is installed beside it (`vllm.general_plugins` in
pyproject.toml). It is called by nobody else, and nothing else here knows vLLM.
"""

from __future__ import annotations

import importlib

from transformers import AutoModel, PreTrainedConfig

from longspan import surgery
from longspan.export.remote import decoder_class
from longspan.export.vllm import calls_one_interface
from longspan.surgery.families import FAMILIES
from longspan.surgery.saved import patched_classes

_BACKEND = "vllm.model_executor.models.transformers"


def register() -> None:
    """Make vLLM's registry know the patched classes, if vLLM is there."""
    try:
        registry = importlib.import_module("vllm").ModelRegistry
    except ImportError:
        return
    surgery.register()
    for family in FAMILIES.values():
        if not calls_one_interface(family.patched_class):
            continue
        config_class, model_class = patched_classes(family)
        AutoModel.register(config_class, decoder_class(family), exist_ok=True)
        registry.register_model(model_class.__name__, f"{_BACKEND}:{_backend_class(config_class)}")


def _backend_class(config_class: type[PreTrainedConfig]) -> str:
    """vLLM's own class for models of that kind."""
    experts = {"num_experts", "num_local_experts"} & set(config_class().to_dict())
    return "TransformersMoEForCausalLM" if experts else "TransformersForCausalLM"
