"""Methods said by transformers' own rope types, so that a plain folder computes what they compute.

What a config says is not believed: the rotary module that transformers builds from it is asked, at lengths on both
sides of the trained window.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedConfig

from longspan.equation import Slots, Window
from longspan.methods.frequency.dynamic_ntk import DynamicNtk
from longspan.methods.frequency.llama3 import Llama3
from longspan.methods.frequency.yarn import Yarn
from longspan.surgery import Plan
from longspan.surgery.families import GLOBAL, head_dim

CLOSE = 1e-5
"""Largest relative difference of a frequency: transformers makes its own in float32."""


class InexpressibleError(Exception):
    """Why no rope type says what the methods do, as half a sentence."""


def plain_config(
    config: PreTrainedConfig, plan: Plan, adapt: Callable[[PreTrainedConfig], PreTrainedConfig | None] | None = None
) -> PreTrainedConfig:
    """A config of transformers' own class under which its own model computes what `plan` says.

    Args:
        config: of the patched model.
        plan: the methods in force, between two lengths.
        adapt: may change each candidate for a server, or turn it down by returning None.

    Raises:
        InexpressibleError: there is none.
    """
    root = temperature_root(plan)
    for rope in _candidates(plan.slots, plan.window, root):
        found: PreTrainedConfig | None = _with_rope(config, plan, rope)
        if found is not None and adapt is not None:
            found = adapt(found)
        if found is not None and _agrees(found, plan, root):
            return found
    raise InexpressibleError(f"no rope type gives the frequencies of {type(plan.slots.frequency).__name__}")


def with_default_rope(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same config without the scaling that methods of ours stand for; base and rotated fraction stay."""
    changed = copy.deepcopy(config)
    rope = getattr(changed, "rope_parameters", None)
    if rope:
        place = rope.get(GLOBAL, rope)
        kept = {key: place[key] for key in ("rope_theta", "partial_rotary_factor") if key in place}
        place.clear()
        place.update({"rope_type": "default", **kept})
    return changed


def rope_type(config: PreTrainedConfig) -> str:
    """The rope type of the layers that see the whole past."""
    rope = getattr(config, "rope_parameters", None) or {}
    return str(rope.get(GLOBAL, rope).get("rope_type", "default"))


def temperature_root(plan: Plan) -> float:
    """What cos and sin are multiplied by: the square root of tau, which must be the same for every query."""
    slots, window = plan.slots, plan.window
    beyond = (
        (slots.feature, "changes what is rotated"),
        (slots.bias, "adds a bias"),
        (slots.bands, "moves far keys nearer"),
        (slots.selection if slots.selects(training=False) else None, "chooses the keys that a query sees"),
    )
    for method, does in beyond:
        if method is not None:
            raise InexpressibleError(f"{type(method).__name__} {does}, which no rope type does")
    if slots.start(window) is not None:
        raise InexpressibleError(f"{type(slots.frequency).__name__} turns the first tokens at a speed of their own")
    if slots.scale is None:
        return 1.0
    tau = slots.scale.scale(window, torch.arange(2 * window.target_length))
    if not (tau == tau[0]).all():
        raise InexpressibleError(f"{type(slots.scale).__name__} scales each query by its position")
    return float(tau[0]) ** 0.5


def _candidates(slots: Slots, window: Window, root: float) -> Iterator[dict[str, Any]]:
    """Rope parameters that may say it, the best known to other tools first."""
    frequency, original = slots.frequency, {"original_max_position_embeddings": window.original_length}
    if isinstance(frequency, DynamicNtk) and slots.follows_length():
        yield {"rope_type": "dynamic", "factor": frequency.factor or window.factor}
        return
    short, long = (slots.omega(window.at(length)) for length in (window.original_length, window.target_length))
    if root == 1:
        yield {"rope_type": "default", "rope_theta": base_of(long, window)}
        yield {"rope_type": "linear", "factor": rounded(window.omega[0] / long[0])}
    factor = getattr(frequency, "factor", None) or window.factor
    if isinstance(frequency, Llama3):
        ends = {"low_freq_factor": frequency.low_freq_factor, "high_freq_factor": frequency.high_freq_factor}
        yield {"rope_type": "llama3", "factor": factor, **ends, **original}
    if isinstance(frequency, Yarn):
        ramp = {"beta_fast": frequency.beta_fast, "beta_slow": frequency.beta_slow, "truncate": frequency.truncate}
        usual = math.isclose(root, 0.1 * math.log(factor) + 1)
        own = {} if usual else {"attention_factor": root}
        yield {"rope_type": "yarn", "factor": factor, **ramp, **own, **original}
    yield {
        "rope_type": "longrope",
        "short_factor": (window.omega / short).tolist(),
        "long_factor": (window.omega / long).tolist(),
        "attention_factor": root,
        **original,
    }


def base_of(omega: Tensor, window: Window) -> float:
    """The base whose last frequency is the last of `omega`."""
    if omega.equal(window.omega) or window.rotary_dim == 2 or not omega[-1]:
        return window.base
    return rounded(omega[-1] ** (-window.rotary_dim / (window.rotary_dim - 2)))


def rounded(value: Tensor) -> float:
    """Twelve digits: far more than float32 holds, and 500000.0 stays what it was."""
    return float(f"{float(value):.12g}")


def _with_rope(config: PreTrainedConfig, plan: Plan, rope: dict[str, Any]) -> PreTrainedConfig | None:
    """`config` as transformers' own, with the rope parameters `rope`; None if the family does not take them."""
    numbers = [number for value in rope.values() for number in (value if isinstance(value, list) else [value])]
    if any(isinstance(number, float) and not 0 < number < float("inf") for number in numbers):
        return None
    values = config.to_dict()
    for key in ("longspan", "auto_map", "model_type", "architectures", "transformers_version"):
        values.pop(key, None)
    before = values.get("rope_parameters")
    if not before:
        raise InexpressibleError(f"{plan.family.model_type} has no rope parameters in its config")
    place = before.get(GLOBAL, before)
    kept = {key: place[key] for key in ("rope_theta", "partial_rotary_factor") if key in place}
    after = {**kept, **rope}
    values["rope_parameters"] = {**before, GLOBAL: after} if GLOBAL in before else after
    follows = rope["rope_type"] == "dynamic"  # which reads the trained length there
    values["max_position_embeddings"] = plan.window.original_length if follows else plan.window.target_length
    if "original_max_position_embeddings" in values:  # Phi-3's own place for it, which overrules the other
        values["original_max_position_embeddings"] = plan.window.original_length
    if values.get("head_dim", 0) is None:  # Mixtral's; several rope types stumble over it
        values["head_dim"] = head_dim(config)
    values["architectures"] = [plan.family.model_class.__name__]
    try:
        return plan.family.config_class.from_dict(values)
    except (KeyError, StrictDataclassError):  # a family that takes fewer types than others, such as Phi-3
        return None


def _agrees(config: PreTrainedConfig, plan: Plan, root: float) -> bool:
    """Whether the rotary module that transformers makes of `config` turns as the plan says, at every length."""
    slots, window = plan.slots, plan.window
    if root != 1 and window.rotary_dim < head_dim(config):
        raise InexpressibleError(
            f"{type(slots.scale).__name__} scales whole logits, and rope types only the rotated part of a head"
        )
    with torch.device("meta"):
        decoder = plan.family.model_class(config).base_model
    if not hasattr(decoder, "rotary_emb"):
        raise InexpressibleError(f"{plan.family.model_type} has its frequencies in its code and not in its config")
    rotary = type(decoder.rotary_emb)(config=config)
    prefix, more = (f"{GLOBAL}_", {"layer_type": GLOBAL}) if GLOBAL in config.rope_parameters else ("", {})
    for length in (1, window.original_length, window.original_length + 1, window.target_length + 1):
        rotary(torch.zeros(1), torch.tensor([[length - 1]]), **more)
        found, scaling = getattr(rotary, f"{prefix}inv_freq").double(), getattr(rotary, f"{prefix}attention_scaling")
        expected = slots.omega(window.at(length))
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=CLOSE, atol=0):
            return False
        if abs(float(scaling) - root) > CLOSE * root:
            return False
    return True
