"""Checks that nothing but the extension was changed in the config."""

from __future__ import annotations

from typing import Any

from longspan.doctor.finding import DoesNotApply, Finding
from longspan.doctor.probe import Probe
from longspan.doctor.registry import check
from longspan.errors import FamilyError
from longspan.surgery.families import geometry

_OF_THE_EXTENSION = (
    "rope_parameters",
    "max_position_embeddings",
    "longspan",
    "model_type",
    "architectures",
    "auto_map",
)
_NO_MATTER = ("transformers_version", "_name_or_path", "dtype", "use_cache", "return_dict", "output_hidden_states")


@check(
    holds="config.rope_parameters names a rope_theta, that of the model compared with",
    advice="merge into config.rope_parameters instead of replacing it, so that rope_theta of the base model stays",
)
def rope_theta(probe: Probe) -> Finding:
    """Is rope_theta still there, and still the base model's?"""
    theta = _theta(probe.model)
    if theta is None and not hasattr(probe.model.config, "rope_parameters"):
        raise DoesNotApply("the model has no rotary position embedding")
    if theta is None:
        return Finding(passed=False, measured="none", threshold="a number", detail="the config has lost rope_theta")
    if probe.against is None:
        return Finding(passed=True, measured=theta, threshold="a number", detail="no other model to compare with")
    other = _theta(probe.against)
    return Finding(passed=theta == other, measured=theta, threshold=f"{other}", detail="against the other model's")


def _theta(model: Any) -> str | None:
    kinds = sorted(set(getattr(model.config, "layer_types", None) or ["full_attention"]))
    try:
        return ", ".join(dict.fromkeys(f"{geometry(model.config, kind)[1]:g}" for kind in kinds))
    except FamilyError:
        return None


@check(
    holds="every setting of the config but those of the extension equals the other model's",
    advice="start from the base model's own config and change nothing but rope_parameters and the length",
)
def settings_kept(probe: Probe) -> Finding:
    """Are all other settings those of the base model?"""
    if probe.against is None:
        raise DoesNotApply("give the plain model to compare with (against, --against)")
    mine, other = (_settings(model.config) for model in (probe.model, probe.against))
    changed = sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name))
    detail = ", ".join(f"{name} {other.get(name)} -> {mine.get(name)}" for name in changed)
    return Finding(passed=not changed, measured=f"{len(changed)} changed", threshold="0 changed", detail=detail)


def _settings(config: Any) -> dict[str, Any]:
    rope = getattr(config, "rope_parameters", None) or {}
    values = {name: value for name, value in config.to_dict().items() if name not in (*_OF_THE_EXTENSION, *_NO_MATTER)}
    return {**values, "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0)}


@check(
    holds="the config names the length that the base model was trained on",
    advice="extend the base model again with its trained length: original_length, or original_max_position_embeddings",
)
def original_length(probe: Probe) -> Finding:
    """Do the formulas start from the length that the base model was trained on?"""
    rope = getattr(probe.model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("yarn", "longrope", "llama3") and not rope.get("original_max_position_embeddings"):
        detail = "original_max_position_embeddings is missing, so max_position_embeddings is taken for it"
        return Finding(passed=False, measured="none", threshold="a number", detail=detail)
    if probe.against is None:
        return Finding(
            passed=True, measured=probe.original, threshold="a number", detail="no other model to compare with"
        )
    trained = int(probe.against.config.max_position_embeddings)
    return Finding(passed=probe.original == trained, measured=probe.original, threshold=f"{trained}")
