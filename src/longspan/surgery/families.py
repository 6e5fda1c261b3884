"""Where each family of Hugging Face models keeps each term: one row a family, one place a real difference."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from longspan.equation import Bias, Feature, Method, Window, fill_slots
from longspan.errors import FamilyError, LengthError
from longspan.registry import make_method
from longspan.rotation import Layout
from longspan.surgery import gptj
from longspan.surgery.attention import patched_attention
from longspan.surgery.rotary import LOCAL, Terms

PREFIX = "longspan_"
"""Patched models have a model_type of their own, so that nothing loads them as the plain model."""
GLOBAL = "full_attention"
"""What transformers calls layers that see the whole past."""
QUERY_SITES = ("q_norm", "q_layernorm", "q_proj", "qkv_proj", "query_key_value")
"""Modules that may give q, the last one before RoPE first; k has the same name with k for q."""


@dataclass(frozen=True, slots=True)
class Family:
    """One model_type of transformers."""

    model_type: str
    class_prefix: str
    package: str = ""
    """Of transformers.models, where it is not the model_type."""
    config_name: str = "Config"
    """What follows the prefix in the name of the config class."""
    layout: Layout = "half"
    """Which elements of a head make a pair."""
    base: float | None = None
    """rope_theta of a family that has it in its code and not in its config."""
    nested: bool = False
    """Whether local and global layers have rope parameters of their own."""
    forward: Callable[..., Any] | None = None
    """An attention forward to put in place of the family's own, which is too old to be copied."""

    def _class(self, suffix: str, kind: str = "modeling") -> Any:
        package = self.package or self.model_type
        module = importlib.import_module(f"transformers.models.{package}.{kind}_{package}")
        return getattr(module, self.class_prefix + suffix)

    @property
    def config_class(self) -> type[PreTrainedConfig]:
        """transformers' own config class."""
        return self._class(self.config_name, "configuration")

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """transformers' own causal language model."""
        return self._class("ForCausalLM")

    @property
    def attention_class(self) -> type[nn.Module]:
        """transformers' own attention module."""
        return self._class("Attention")

    @property
    def patched_class(self) -> type[nn.Module]:
        """The attention module that takes its place.

        Raises:
            FamilyError: a transformers version whose forward cannot be patched.
        """
        return patched_attention(self.attention_class, self.forward)  # type: ignore[arg-type]  # functions hash


FAMILIES = {
    family.model_type: family
    for family in (
        Family("llama", "Llama"),
        Family("mistral", "Mistral"),
        Family("mixtral", "Mixtral"),
        Family("qwen2", "Qwen2"),
        Family("qwen3", "Qwen3"),
        Family("qwen3_moe", "Qwen3Moe"),
        Family("gemma2", "Gemma2"),
        Family("gemma3_text", "Gemma3", package="gemma3", config_name="TextConfig", nested=True),
        Family("phi3", "Phi3"),
        Family("gpt_neox", "GPTNeoX"),
        Family("stablelm", "StableLm"),
        Family("olmo2", "Olmo2"),
        Family("granite", "Granite"),
        Family("cohere", "Cohere", layout="interleaved"),
        Family("gptj", "GPTJ", layout="interleaved", base=10000.0, forward=gptj.forward),
    )
}


def family_of(model: PreTrainedModel) -> Family:
    """The family of a plain or patched causal language model.

    Raises:
        FamilyError: the family is not supported, with the reason, or the model is not its causal language model.
    """
    family = _row(model.config)
    if family is None:
        raise FamilyError(_why_not(model.config))
    if not isinstance(model, family.model_class):
        name = family.model_class.__name__
        raise FamilyError(f"{type(model).__name__} cannot be extended: load it as {name}, the causal language model")
    if type(model) is not family.model_class and not model.config.model_type.startswith(PREFIX):
        name, own = family.model_class.__name__, type(model).__name__
        raise FamilyError(f"{own} is built on {name} and has code that extending would drop: load it as {name}")
    return family


def _row(config: PreTrainedConfig) -> Family | None:
    return FAMILIES.get(config.model_type.removeprefix(PREFIX))


def _why_not(config: PreTrainedConfig) -> str:
    start = f"model family '{config.model_type}' is not supported: "
    inner = getattr(config, "text_config", None)
    if inner is not None:
        return f"{start}it is a language model beside other parts; load its language model ({inner.model_type}) alone"
    if getattr(config, "kv_lora_rank", None) is not None:
        return f"{start}multi-head latent attention (MLA) has one rotated key for all heads, apart from their own keys"
    if not hasattr(config, "rope_parameters") and not hasattr(config, "rotary_dim"):
        return f"{start}its config has no rotary position embedding (RoPE), which is what longspan changes"
    return f"{start}choose from {', '.join(FAMILIES)}"


def sites_of(attention: nn.Module) -> tuple[str, str]:
    """Names of the modules whose outputs are q and k just before RoPE; one name twice where they are fused."""
    query = next(name for name in QUERY_SITES if hasattr(attention, name))
    key = "k" + query.removeprefix("q")
    return query, key if hasattr(attention, key) else query


def geometry(config: PreTrainedConfig, layer_type: str = GLOBAL) -> tuple[int, float]:
    """(rotary_dim, base) of a config: the rotated width of a head and rope_theta.

    Args:
        layer_type: for which layers, in models whose rope_parameters are nested.

    Raises:
        FamilyError: rope_theta is missing, which happens when `rope_scaling` replaced the whole dictionary.
    """
    rope = _rope(config, layer_type)
    base = rope.get("rope_theta")
    if base is None:
        raise FamilyError(
            "the model's config has no rope_theta: it was lost when rope_scaling or rope_parameters was replaced; "
            "set config.rope_parameters['rope_theta'] to the value of the original model"
        )
    width = getattr(config, "rotary_dim", None) or int(head_dim(config) * rope.get("partial_rotary_factor", 1.0))
    return width, float(base)


def head_dim(config: PreTrainedConfig) -> int:
    """Elements of one head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _rope(config: PreTrainedConfig, layer_type: str = GLOBAL) -> Mapping[str, Any]:
    """The rope parameters of the layers of a type."""
    family = _row(config)
    if family is not None and family.base is not None:
        return {"rope_theta": family.base}
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    if family is None or not family.nested:
        return rope
    if not isinstance(rope.get(layer_type), Mapping):
        raise FamilyError(
            f"the model's config has no rope_parameters['{layer_type}']: "
            "it was lost when rope_parameters was replaced; take that part from the original model"
        )
    return rope[layer_type]


SCALING: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "linear": ("pi", ("factor",), ()),
    "dynamic": ("dynamic_ntk", ("factor",), ()),
    "yarn": ("yarn", ("factor",), ("beta_fast", "beta_slow", "attention_factor", "truncate")),
    "llama3": ("llama3", ("factor",), ("low_freq_factor", "high_freq_factor")),
    "longrope": ("long_rope", ("short_factor", "long_factor"), ()),
}
"""Rope types of transformers: our method, and the parameters that it must and may have from there."""


def present_scaling(config: PreTrainedConfig) -> tuple[Method, ...]:
    """The scaling that transformers itself applies by this config, as our methods.

    Raises:
        FamilyError: a rope type that has no counterpart here.
    """
    family = _row(config)
    nested = family is not None and family.nested
    if nested and (local := _rope(config, LOCAL).get("rope_type", "default")) != "default":
        raise FamilyError(f"the model already uses rope type '{local}' in its local layers: load a plain model")
    rope = _rope(config)
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return ()
    if kind not in SCALING:
        raise FamilyError(
            f"the model already uses rope type '{kind}', which has no counterpart here: load a plain model"
        )
    name, needed, optional = SCALING[kind]
    for key in needed:
        if rope.get(key) is None:
            raise FamilyError(f"the model's config has rope type '{kind}' but no {key}: config.json is damaged")
    settings = {key: rope[key] for key in (*needed, *optional) if rope.get(key) is not None}
    if kind == "longrope":
        settings["attention_factor"] = _longrope_attention_factor(config, rope)
    _check_temperature(kind, rope, settings)
    return (make_method(name, settings),)


def _longrope_attention_factor(config: PreTrainedConfig, rope: Mapping[str, Any]) -> float:
    """What transformers takes; it stays when the window is made longer still."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    original = trained_length(config)
    factor = rope.get("factor") or config.max_position_embeddings / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _check_temperature(kind: str, rope: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse a temperature that is not one on the whole logit, which is what ours are."""
    reason = None
    if kind == "yarn" and rope.get("mscale") is not None:
        reason = "mscale"
    elif kind in ("yarn", "longrope") and rope.get("partial_rotary_factor", 1.0) != 1.0:
        reason = None if settings.get("attention_factor") == 1.0 else "a head that rotates in part"
    if reason is not None:
        raise FamilyError(f"the model already uses {kind} with {reason}, which has no counterpart: load a plain model")


def trained_length(config: PreTrainedConfig) -> int:
    """Tokens the model was trained on, as far as its config tells."""
    saved = getattr(config, "longspan", None)
    if saved is not None:
        return int(saved["original_length"])
    length = _rope(config).get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
    if length is None:
        raise LengthError("the config does not tell the trained length: give original_length")
    return int(length)


def meant_length(config: PreTrainedConfig) -> int:
    """Tokens the model is meant to read: a rope type of transformers that has a factor reaches that far at least."""
    saved = getattr(config, "longspan", None)
    if saved is not None:
        return int(saved["target_length"])
    rope = _rope(config)
    scaled = trained_length(config) * rope["factor"] if rope.get("rope_type") in SCALING and rope.get("factor") else 0
    return max(int(config.max_position_embeddings), int(scaled))


def window_of(config: PreTrainedConfig, original_length: int, target_length: int, layer_type: str = GLOBAL) -> Window:
    """The window of a model with this config between these lengths."""
    rotary_dim, base = geometry(config, layer_type)
    family = _row(config)
    return Window(
        rotary_dim=rotary_dim,
        base=base,
        original_length=original_length,
        target_length=target_length,
        layout="half" if family is None else family.layout,
    )


def slides(attention: nn.Module) -> bool:
    """Whether an attention module sees a window of the past only."""
    config: Any = attention.config
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return bool(kinds[attention.layer_idx] == LOCAL)
    return getattr(config, "sliding_window", None) is not None


def local_terms(config: PreTrainedConfig, methods: Sequence[Method], window: Window) -> Terms | None:
    """What holds in local layers that rotate by a base of their own (Gemma 3); None where all layers rotate alike.

    Such layers never see beyond their sliding window, so there is nothing to lengthen in them: they take features and
    biases, which are what a model computes its logits with, and keep their own frequencies.
    """
    family = _row(config)
    if family is None or not family.nested:
        return None
    taken = [method for method in methods if isinstance(method, Feature | Bias)]
    if len(taken) < len(methods) and GLOBAL not in config.layer_types:
        raise FamilyError(
            "every layer of the model slides: nothing in it sees far enough for its frequencies to change"
        )
    return Terms(fill_slots(taken), window_of(config, window.original_length, window.target_length, LOCAL))
