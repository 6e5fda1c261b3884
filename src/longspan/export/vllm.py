"""What vLLM makes of a folder, by the rules in its source: the window it takes, and the attention it can serve.

Source    github.com/vllm-project/vllm, as of transformers v5: `_get_and_verify_max_len` (vllm/config/model.py),
          `get_rope` (layers/rotary_embedding), the Transformers backend (model_executor/models/transformers).
Read there and not run: vLLM is never imported here.
"""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from longspan.errors import FamilyError, MethodError
from longspan.export.rope_types import rope_type
from longspan.lengths import format_length
from longspan.surgery import Plan
from longspan.surgery.families import GLOBAL
from longspan.surgery.rotary import LOCAL

LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""Where vLLM looks for the length of a model; the smallest counts."""
ASSUMED_LENGTH = 2048
"""What it takes where there is none of these."""
NOT_MULTIPLIED = ("su", "longrope", "llama3")
"""Rope types whose factor does not multiply that length; it multiplies for all others, known to vLLM or not."""


def vllm_max_length(config: Mapping[str, Any], tokenizer_max: int | None = None) -> int:
    """The longest window that vLLM grants, and, longrope apart, takes if `--max-model-len` is not given.

    Under longrope it may start with the trained length instead, so the length should be given.

    Args:
        config: what config.json holds.
        tokenizer_max: model_max_length of the tokenizer, None if it has none.
    """
    lengths = [config[name] for name in LENGTHS if config.get(name) is not None]
    longest = config.get("model_max_length") or min(lengths, default=None)
    if tokenizer_max is not None:
        longest = tokenizer_max if longest is None else min(longest, tokenizer_max)
    if longest is None:
        longest = ASSUMED_LENGTH
    if "gemma3" in config.get("model_type", ""):  # its length counts as scaled already
        return int(longest)
    factor = 1.0
    for rope in _rope_parameters(config):
        kind = rope.get("rope_type", "default")
        if kind not in NOT_MULTIPLIED:
            factor = rope.get("factor", factor)
            if kind == "yarn":
                longest = rope["original_max_position_embeddings"]
    return int(longest * factor)


def _rope_parameters(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rope = config.get("rope_parameters") or {}
    if rope and set(rope) <= {GLOBAL, LOCAL}:
        return list(rope.values())
    return [rope] if rope else []


def adapted(config: PreTrainedConfig, plan: Plan) -> PreTrainedConfig | None:
    """`config` written so that vLLM's own model grants the target and computes the same; None if that cannot be."""
    kind, target = rope_type(config), plan.window.target_length
    rope = config.rope_parameters.get(GLOBAL, config.rope_parameters)
    if kind == "yarn" and "attention_factor" in rope:
        return None  # under this name vLLM's older versions pass it over
    if kind == "longrope":
        if plan.window.layout != "half":
            return None
        rope["short_mscale"] = rope["long_mscale"] = rope["attention_factor"]  # vLLM's names for it
    granted = vllm_max_length(config.to_dict())
    if granted > target:
        config.max_position_embeddings = math.ceil(target * config.max_position_embeddings / granted)
    return config if vllm_max_length(config.to_dict()) >= target else None


def check_methods(plan: Plan) -> None:
    """Refuse methods that vLLM cannot serve in any way.

    Raises:
        MethodError: with the reason and the alternative.
    """
    slots = plan.slots
    if slots.bias is not None:
        raise MethodError(
            f"{type(slots.bias).__name__} lives in the attention mask, which vLLM does not read: export with --to hf"
        )
    if slots.bands is not None:
        raise MethodError(
            f"{type(slots.bands).__name__} turns keys anew for each query, but vLLM keeps them as they were rotated: "
            "export with --to hf"
        )
    if slots.region_rule() is not None:
        raise MethodError(
            f"{type(slots.selection).__name__} chooses keys by earlier queries, which vLLM does not keep: "
            "export with --to hf"
        )
    if slots.follows_length():
        fixed = "extend the model with static_for='target', or " if hasattr(slots.frequency, "static_for") else ""
        raise MethodError(
            f"{type(slots.frequency).__name__} follows the length, but vLLM keeps keys as they were rotated and one "
            f"table for all lengths: {fixed}export with --to hf"
        )


def check_backend(plan: Plan) -> None:
    """Refuse what vLLM's Transformers backend, which serves models of longspan's own classes, cannot run.

    Raises:
        MethodError: keys wider than the cache that vLLM makes for the family.
        FamilyError: an attention that does not call the attention function in the one way that vLLM looks for.
    """
    slots, window = plan.slots, plan.window
    width = slots.rotary_dim(window.rotary_dim)
    if width > window.rotary_dim:
        raise MethodError(
            f"{type(slots.feature).__name__} makes {width} rotated numbers a key of {window.rotary_dim}, and vLLM's "
            "cache has the room of the plain model: take a setting that keeps the width, or export with --to hf"
        )
    if not calls_one_interface(plan.family.patched_class):
        raise FamilyError(
            f"the attention of {plan.family.model_type} does not call transformers' attention functions, which vLLM "
            "replaces: export with --to hf"
        )


def calls_one_interface(attention_class: type) -> bool:
    """vLLM's rule for an attention module: one call of what was looked up in ALL_ATTENTION_FUNCTIONS, and a softmax
    scale that is a number or an attribute of the module."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(vars(attention_class)["forward"])))
    nodes = list(ast.walk(ast.parse(source)))
    names = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and _is_lookup(node.value)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    calls = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in names]
    if len(calls) != 1:
        return False
    return all(_is_plain(keyword.value) for keyword in calls[0].keywords if keyword.arg == "scaling")


def _is_lookup(value: ast.expr) -> bool:
    place = value.func if isinstance(value, ast.Call) else value
    if not isinstance(place, ast.Attribute | ast.Subscript):
        return False
    return isinstance(place.value, ast.Name) and place.value.id == "ALL_ATTENTION_FUNCTIONS"


def _is_plain(value: ast.expr) -> bool:
    own = isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id == "self"
    return own or isinstance(value, ast.Constant)


def command(folder: str, length: int, *, code: bool) -> str:
    """The line that serves an exported folder. No code in the folder has to be trusted: see `vllm_plugin`."""
    # our rotary module makes its tables anew in each pass, which a captured graph would not
    return f"vllm serve {folder} --max-model-len {length}" + (" --enforce-eager" if code else "")


def describe_length(kind: str, granted: int) -> str:
    """One sentence on the length that vLLM takes under rope type `kind`."""
    start = f"vLLM grants {granted} tokens ({format_length(granted)}) by its rule for rope type `{kind}`"
    if kind == "longrope":
        return f"{start}; give `--max-model-len`, since without it vLLM may start with the trained length."
    return f"{start}."
