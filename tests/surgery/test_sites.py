"""At the place where q and k meet RoPE, each family computes the equation: against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from transformers import (
    PreTrainedModel,
)

import longspan as ls
from conftest import make_model
from longspan.equation import Bands, Bias, Feature, Method, RegionSelection, Window, fill_slots, initial_parameters
from longspan.reference import reference_attention
from longspan.surgery.families import FAMILIES, sites_of, slides
from surgery_methods import TARGET, ids, logits, matrix
from tolerances import TOLERANCE, distance

EXACT: dict[str, dict] = {
    "gemma2": {"attn_logit_softcapping": None},
    **{family: {"experts_implementation": "eager"} for family in ("mixtral", "qwen3_moe")},
}
"""Settings under which the reference can follow: no cap on logits, experts that take float64."""


def captured_attention(model: PreTrainedModel, tokens: torch.Tensor) -> list[tuple[torch.nn.Module, dict]]:
    """Each attention module with q, k, v just before RoPE and the input of its output projection, all `B H T D`."""
    family = FAMILIES[model.config.model_type.removeprefix("longspan_")]
    layers, handles = [], []
    for module in model.modules():
        if not isinstance(module, family.attention_class):
            continue
        seen: dict[str, torch.Tensor] = {}
        layers.append((module, seen))

        def keep(name: str, store: dict[str, torch.Tensor]) -> Callable[..., None]:
            return lambda _module, args, output: store.update({name: args[0] if name == "output" else output})

        query, key = sites_of(module)
        sites = {"q": query, "k": key, "v": "v_proj"} if query != key else {"qkv": query}
        sites["output"] = next(name for name in ("o_proj", "out_proj", "dense") if hasattr(module, name))
        handles += [getattr(module, site).register_forward_hook(keep(name, seen)) for name, site in sites.items()]
    logits(model, tokens)
    for handle in handles:
        handle.remove()
    return [(module, _heads(module, seen)) for module, seen in layers]


def _heads(module: torch.nn.Module, seen: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    batch, length, _ = seen["output"].shape
    width = getattr(module, "head_dim", None) or module.head_size
    fused = seen.pop("qkv", None)
    if fused is not None and hasattr(module, "head_size"):  # GPT-NeoX: q, k and v of one head side by side
        parts = fused.view(batch, length, -1, 3 * width).chunk(3, dim=-1)
        seen |= dict(zip("qkv", parts, strict=True))
    elif fused is not None:  # Phi-3: all of q, then all of k, then all of v
        groups = module.num_key_value_heads * width
        seen |= dict(zip("qkv", fused.split((fused.shape[-1] - 2 * groups, groups, groups), dim=-1), strict=True))
    for name, x in seen.items():
        done = x.dim() == 4 and x.shape[2] == length  # norms of single heads come before or after the transposition
        seen[name] = x if done else x.reshape(batch, length, -1, width).transpose(1, 2)
    return seen


def expected_attention(module: torch.nn.Module, seen: dict, methods: Sequence[Method], window: Window) -> torch.Tensor:
    """What the reference makes of captured q, k and v, `B H T D`, for a module with its own scaling and window.

    The reference divides by sqrt(D) and sees the whole past, so its weights are taken apart: their logarithms are the
    logits, up to a constant in each row, which another scaling multiplies and a bias is added to.
    """
    slots, (q, k, v) = fill_slots(methods), (seen[name] for name in "qkv")
    parameters = initial_parameters(slots, k.shape[1], window.rotary_dim)
    parameters = {name: getattr(module, name).detach() for name in parameters}
    length, width = q.shape[2], q.shape[3]
    one = torch.eye(length, dtype=torch.float64).expand(*k.shape[:2], length, length)

    def log_weights(query: torch.Tensor) -> torch.Tensor:
        return reference_attention(query, k, one, methods=methods, window=window, parameters=parameters).log()

    bias = log_weights(torch.zeros_like(q)).clamp(min=-1e6) if slots.bias is not None else 0.0
    times = getattr(module, "scaling", width**-0.5) * width**0.5
    distance = torch.arange(length)[:, None] - torch.arange(length)
    unseen = (distance < 0) | (distance >= (getattr(module, "sliding_window", None) or length))
    found = times * (log_weights(q) - bias) + bias
    weights = found.masked_fill(unseen, -torch.inf).softmax(-1)
    return weights @ v.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)


@pytest.mark.parametrize(("family", "methods"), matrix())
def test_each_layer_computes_the_equation(family: str, methods: str) -> None:
    model = make_model(family, **EXACT.get(family, {})).double()
    # tau and the bias of the patched model are float32, and so are the weights of eager attention
    allowed = 1e-6 if model.config._attn_implementation == "sdpa" else TOLERANCE[torch.float32]
    with ls.extend(model, methods, target_length=TARGET) as patch:
        for module in model.modules():
            if hasattr(module, "phase"):
                torch.nn.init.uniform_(module.phase, -3, 0)
        for module, seen in captured_attention(model, ids(length=75)):
            methods_here = tuple(m for m in patch.plan.methods if not m.only_trains())
            window = patch.plan.window
            if slides(module):
                methods_here = tuple(m for m in methods_here if not isinstance(m, Bands | RegionSelection))
            if family == "gemma3_text" and module.is_sliding:
                methods_here = tuple(m for m in methods_here if isinstance(m, Feature | Bias))
                window = replace(window, base=1000.0)
            expected = expected_attention(module, seen, methods_here, window.at(75))
            assert distance(seen["output"], expected) < allowed
