"""Where each family of Hugging Face models keeps each term: one row a family, one function a real difference."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from longspan.equation import Method, Window
from longspan.errors import FamilyError, LengthError
from longspan.registry import make_method

PREFIX = "longspan_"
"""Patched models have a model_type of their own, so that nothing loads them as the plain model."""


@dataclass(frozen=True, slots=True)
class Family:
    """One model_type of transformers, and the modules whose outputs are q and k just before RoPE."""

    model_type: str
    class_prefix: str
    query_site: str = "q_proj"
    key_site: str = "k_proj"

    def _class(self, suffix: str, kind: str = "modeling") -> Any:
        module = importlib.import_module(f"transformers.models.{self.model_type}.{kind}_{self.model_type}")
        return getattr(module, self.class_prefix + suffix)

    @property
    def config_class(self) -> type[PreTrainedConfig]:
        """transformers' own config class."""
        return self._class("Config", "configuration")

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """transformers' own causal language model."""
        return self._class("ForCausalLM")

    @property
    def attention_class(self) -> type:
        """transformers' own attention module."""
        return self._class("Attention")


FAMILIES = {
    family.model_type: family
    for family in (
        Family("llama", "Llama"),
        Family("mistral", "Mistral"),
        Family("qwen2", "Qwen2"),
        Family("qwen3", "Qwen3", query_site="q_norm", key_site="k_norm"),
        Family("gpt_neox", "GPTNeoX", query_site="query_key_value", key_site="query_key_value"),
    )
}


def family_of(model: PreTrainedModel) -> Family:
    """The family of a plain or patched causal language model.

    Raises:
        FamilyError: the family is not supported, or the model is not its causal language model.
    """
    model_type = model.config.model_type.removeprefix(PREFIX)
    if model_type not in FAMILIES:
        raise FamilyError(f"model family '{model_type}' is not supported: choose from {', '.join(FAMILIES)}")
    family = FAMILIES[model_type]
    if not isinstance(model, family.model_class):
        name = family.model_class.__name__
        raise FamilyError(f"{type(model).__name__} cannot be extended: load it as {name}, the causal language model")
    return family


def geometry(config: PreTrainedConfig) -> tuple[int, float]:
    """(rotary_dim, base) of a config: the rotated width of a head and rope_theta.

    Raises:
        FamilyError: rope_theta is missing, which happens when `rope_scaling` replaced the whole dictionary.
    """
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters or {}
    base = rope.get("rope_theta")
    if base is None:
        raise FamilyError(
            "the model's config has no rope_theta: it was lost when rope_scaling or rope_parameters was replaced; "
            "set config.rope_parameters['rope_theta'] to the value of the original model"
        )
    return int(head_dim * rope.get("partial_rotary_factor", 1.0)), float(base)


def present_scaling(config: PreTrainedConfig) -> tuple[Method, ...]:
    """The scaling that transformers itself applies by this config, as our methods.

    Raises:
        FamilyError: a rope type that has no counterpart here.
    """
    rope = config.rope_parameters or {}
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return ()
    optional = {
        "yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate"),
        "llama3": ("low_freq_factor", "high_freq_factor"),
    }
    names = {"linear": "pi", "dynamic": "dynamic_ntk", "yarn": "yarn", "llama3": "llama3"}
    if kind not in names:
        raise FamilyError(
            f"the model already uses rope type '{kind}', which has no counterpart here: load a plain model"
        )
    if rope.get("factor") is None:
        raise FamilyError(f"the model's config has rope type '{kind}' but no factor: config.json is damaged")
    if kind == "yarn" and (rope.get("mscale") is not None or rope.get("partial_rotary_factor", 1.0) != 1.0):
        reason = "mscale" if rope.get("mscale") is not None else "a head that rotates in part"
        raise FamilyError(f"the model already uses yarn with {reason}, which has no counterpart: load a plain model")
    settings = {key: rope[key] for key in optional.get(kind, ()) if rope.get(key) is not None}
    return (make_method(names[kind], {"factor": rope["factor"], **settings}),)


def trained_length(config: PreTrainedConfig) -> int:
    """Tokens the model was trained on, as far as its config tells."""
    saved = getattr(config, "longspan", None)
    if saved is not None:
        return int(saved["original_length"])
    rope = getattr(config, "rope_parameters", None) or {}
    length = rope.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
    if length is None:
        raise LengthError("the config does not tell the trained length: give original_length")
    return int(length)


def window_of(config: PreTrainedConfig, original_length: int, target_length: int) -> Window:
    """The window of a model with this config between these lengths."""
    rotary_dim, base = geometry(config)
    return Window(
        rotary_dim=rotary_dim, base=base, original_length=original_length, target_length=target_length, layout="half"
    )
