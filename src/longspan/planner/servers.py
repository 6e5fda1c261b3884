"""What each server makes of a model with a plan carried out: whether it serves it, and what to set.

transformers' answer is tried on its own rotary module; those of the others follow rules read in their sources, which
stand with the exports (`export/vllm.py`, `export/gguf.py`) and below. None of these servers is run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedConfig, PreTrainedModel

from longspan.errors import LongspanError
from longspan.export import vllm
from longspan.export.gguf import gguf_rope_of
from longspan.export.rope_types import InexpressibleError, plain_config, rope_type
from longspan.surgery import Plan

Server = Literal["transformers", "vllm", "sglang", "llama.cpp"]
SGLANG_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
"""Rope types that SGLang 0.5 builds; it knows no other, and runs no code of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """Whether a server serves a model, and how."""

    server: Server
    accepted: bool
    setting: str
    """What to set, or why not."""
    max_length: int | None = None
    """Tokens that it grants."""


def accepts(server: Server, model: PreTrainedModel, plan: Plan) -> Acceptance:
    """The answer of one server.

    Args:
        model: extended by `plan`, or plain if the plan is empty; its weights are not looked at.
    """
    try:
        return _RULES[server](model, plan)
    except (LongspanError, InexpressibleError) as error:
        return _refused(server, str(error).partition(": ")[0])


def _refused(server: Server, reason: str) -> Acceptance:
    return Acceptance(server=server, accepted=False, setting=reason)


def _config(model: PreTrainedModel, plan: Plan, *, for_vllm: bool = False) -> PreTrainedConfig:
    """A config of transformers' own that says what the plan does."""
    if not hasattr(model.config, "longspan"):
        return copy.deepcopy(model.config)
    adapt = (lambda config: vllm.adapted(config, plan)) if for_vllm else None
    return plain_config(model.config, plan, adapt)


def _transformers(model: PreTrainedModel, plan: Plan) -> Acceptance:
    target = plan.window.target_length
    try:
        config = _config(model, plan)
    except InexpressibleError as error:
        setting = f"with longspan installed, since {error}"
    else:
        setting = f"by itself: rope type {rope_type(config)}, max_position_embeddings {config.max_position_embeddings}"
    return Acceptance(server="transformers", accepted=True, setting=setting, max_length=target)


def _vllm(model: PreTrainedModel, plan: Plan) -> Acceptance:
    vllm.check_methods(plan)
    target = plan.window.target_length
    try:
        config = _config(model, plan, for_vllm=True)
    except InexpressibleError:
        vllm.check_backend(plan)
        setting = f"--max-model-len {target} --enforce-eager, with longspan installed there"
        return Acceptance(server="vllm", accepted=True, setting=setting, max_length=target)
    granted = vllm.vllm_max_length(config.to_dict())
    setting = f"--max-model-len {target}: rope type {rope_type(config)}, by which it grants {granted}"
    return Acceptance(server="vllm", accepted=granted >= target, setting=setting, max_length=granted)


def _sglang(model: PreTrainedModel, plan: Plan) -> Acceptance:
    if plan.slots.follows_length():
        return _refused("sglang", "keys are cached as they were rotated, and the frequencies follow the length")
    kind = rope_type(_config(model, plan))
    if kind not in SGLANG_TYPES:
        return _refused("sglang", f"it has no rope type {kind}")
    target = plan.window.target_length
    setting = f"--context-length {target}: rope type {kind}"
    return Acceptance(server="sglang", accepted=True, setting=setting, max_length=target)


def _llama_cpp(model: PreTrainedModel, plan: Plan) -> Acceptance:
    kind = gguf_rope_of(model, plan).kind
    target = plan.window.target_length
    setting = f"-c {target}: the file says the rest ({kind})"
    return Acceptance(server="llama.cpp", accepted=True, setting=setting, max_length=target)


_RULES: dict[Server, Callable[[PreTrainedModel, Plan], Acceptance]] = {
    "transformers": _transformers,
    "vllm": _vllm,
    "sglang": _sglang,
    "llama.cpp": _llama_cpp,
}
SERVERS = tuple(_RULES)
