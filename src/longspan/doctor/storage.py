"""Checks of what leaves the process: saved models, and what other tools make of the config."""

from __future__ import annotations

import json
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from longspan import models, surgery
from longspan.doctor.finding import Finding, at_most
from longspan.doctor.probe import SHALLOW, Probe, distance
from longspan.doctor.registry import check
from longspan.errors import LongspanError

NOT_MULTIPLIED = ("default", "yarn", "longrope", "llama3")
"""Rope types whose max_position_embeddings vLLM takes as it is; it multiplies that of all others by their factor."""


def _reloaded_distance(probe: Probe, loaded: Any) -> float:
    tokens, positions = probe.tokens(), probe.spread()
    loaded = loaded.to(probe.device).eval()
    return distance(probe.logits(tokens, positions, model=loaded), probe.logits(tokens, positions, model=probe.shallow))


@check(
    holds="saved as safetensors and loaded again, the model has the same methods and logits, in sd",
    advice="the method is not in config.json, or a weight is not in the file: save the extended model itself by "
    "save_pretrained",
)
def save_and_load(probe: Probe) -> Finding:
    """Does the model come back from disk as it was?"""
    probe.methods  # noqa: B018  (an unreadable config is told here, and not as a difference of logits)
    try:
        # code that a model has brought and that is trusted, or it would not be here, is saved with it
        own_code = type(probe.model).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME)
        attention = probe.model.config._attn_implementation
        loaded = models.load(probe.saved, attn_implementation=attention, trust_remote_code=own_code)
    except (LongspanError, ValueError, OSError) as error:
        return Finding(passed=False, measured="does not load", threshold="loads", detail=str(error).partition("\n")[0])
    detail = f"{type(loaded).__name__}, first {SHALLOW} layers"
    if surgery.current_methods(loaded) != probe.methods:
        detail += "; its methods are others"
        return Finding(passed=False, measured="other methods", threshold="the same", detail=detail)
    return at_most(_reloaded_distance(probe, loaded), probe.tolerance / 100, detail)


@check(
    holds="without longspan, transformers refuses the folder or loads the same logits",
    advice="save it under a model_type of its own (longspan.extend does), or in a rope type that transformers knows",
)
def plain_reload(probe: Probe) -> Finding:
    """Can transformers alone not mistake it for the plain model?"""
    config = json.loads((probe.saved / "config.json").read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        return Finding(passed=True, measured="refused", threshold="refused, or the same", detail=f"model_type {kind}")
    loaded_class = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])
    loaded = loaded_class.from_pretrained(
        probe.saved, attn_implementation=probe.model.config._attn_implementation, local_files_only=True
    )
    detail = f"loads as {loaded_class.__name__}"
    return at_most(_reloaded_distance(probe, loaded), probe.tolerance / 100, detail)


@check(
    holds="the length that vLLM derives from config and tokenizer is the target length",
    advice="write max_position_embeddings as vLLM reads it: the target for default, yarn, longrope and llama3, the "
    "original length for types that it multiplies; and the tokenizer's model_max_length no shorter",
)
def server_length(probe: Probe) -> Finding:
    """Would a server take the target length as the longest input?"""
    config = probe.model.config
    intended = probe.target
    factors = [getattr(method, "factor", None) for method in probe.methods]
    rope = getattr(config, "rope_parameters", None) or {}
    multiplied = rope.get("rope_type", "default") not in NOT_MULTIPLIED
    if probe.against is not None and getattr(config, "longspan", None) is None and multiplied and any(factors):
        intended = int(probe.against.config.max_position_embeddings * max(factor for factor in factors if factor))
    limit = getattr(probe.tokenizer, "model_max_length", None)
    derived = derived_length(config.to_dict(), limit)
    detail = f"vLLM takes {derived}, the model shall read {intended}"
    return Finding(passed=derived == intended, measured=derived, threshold=f"{intended}", detail=detail)


def derived_length(config: dict[str, Any], tokenizer_limit: int | None = None) -> int:
    """The maximum length that vLLM 0.33 derives from a config when the user gives none."""
    length = int(config.get("max_position_embeddings") or config.get("n_positions") or 0)
    if tokenizer_limit is not None:
        length = min(length, int(tokenizer_limit))
    rope = config.get("rope_parameters") or {}
    nested = any(isinstance(value, dict) for value in rope.values())
    if nested:  # the only nested family, gemma3, is exempt
        return length
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        return int(rope.get("original_max_position_embeddings") or length)
    return int(length if kind in NOT_MULTIPLIED else length * rope.get("factor", 1.0))
