"""Model shapes by name, Llama-like and GPT-NeoX-like, and the start that makes small ones learn to retrieve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from longspan import surgery
from longspan.errors import ConfigError, FamilyError
from longspan.registry import parse_methods

if TYPE_CHECKING:
    from longspan.equation import Method

FAMILIES = ("llama", "gpt_neox")

OUTPUT_PROJECTIONS = ("o_proj", "down_proj", "dense", "dense_4h_to_h")
"""Layers that write into the residual stream, in both families."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The shape of a model, without its vocabulary."""

    layers: int
    width: int
    heads: int
    intermediate: int
    """Width inside Llama's gated MLP, about 8/3 of `width`; GPT-NeoX has 4 x width, the same number of weights."""
    tied: bool
    """Input and output embeddings are one matrix."""


SIZES = {
    "1m": Size(layers=4, width=128, heads=4, intermediate=344, tied=True),
    "3m": Size(layers=6, width=192, heads=3, intermediate=512, tied=True),
    "10m": Size(layers=6, width=384, heads=6, intermediate=1024, tied=True),
    "30m": Size(layers=8, width=512, heads=8, intermediate=1408, tied=True),
    "125m": Size(layers=12, width=768, heads=12, intermediate=2048, tied=True),
    "350m": Size(layers=24, width=1024, heads=16, intermediate=2816, tied=False),
}
"""Named by their parameters, embeddings of a fitting vocabulary included; 350m is the shape of the CoCA paper."""


def build_model(
    family: str,
    size: str | Size,
    vocab_size: int,
    train_length: int,
    base: float,
    methods: Sequence[Method] | str,
    seed: int,
    **more: Any,
) -> PreTrainedModel:
    """A new model with `methods` in force for windows of `train_length` tokens.

    All models of one shape and seed start from the same weights, whatever the methods: the plain model is made
    first and then changed. `more` is passed to `build_plain_model`.

    Raises:
        FamilyError: an unknown family. ConfigError: an unknown size. MethodError: methods that cannot be used.
    """
    model = build_plain_model(family, size, vocab_size, train_length, base, seed, **more)
    install_methods(model, methods, train_length)
    return model


def install_methods(model: PreTrainedModel, methods: Sequence[Method] | str, train_length: int) -> surgery.Patch | None:
    """Put `methods` into a new model at factor 1; None if there is none and the model stays plain."""
    methods = parse_methods(methods) if isinstance(methods, str) else tuple(methods)
    if not methods:
        return None
    return surgery.extend(model, methods, target_length=train_length, original_length=train_length)


def build_plain_model(
    family: str,
    size: str | Size,
    vocab_size: int,
    train_length: int,
    base: float,
    seed: int,
    *,
    rotary_pct: float | None = None,
    key_value_heads: int | None = None,
    token_ids: dict[str, int | None] | None = None,
) -> PreTrainedModel:
    """A new model with ordinary rotary positions, weights drawn from `seed` alone.

    `rotary_pct` is the share of each GPT-NeoX head that is rotated (0.25 if None), `key_value_heads` the number of
    key heads of a Llama (that of query heads if None). `token_ids` may give `bos_token_id`, `eos_token_id` and
    `pad_token_id`.

    Raises:
        FamilyError: an unknown family. ConfigError: an unknown size.
    """
    more: dict[str, Any] = {"rotary_pct": rotary_pct, "key_value_heads": key_value_heads, "token_ids": token_ids}
    config = model_config(family, size, vocab_size, train_length, base, **more)
    model = LlamaForCausalLM(config) if isinstance(config, LlamaConfig) else GPTNeoXForCausalLM(config)
    initialise(model, seed)
    return model


def model_config(
    family: str,
    size: str | Size,
    vocab_size: int,
    train_length: int,
    base: float,
    *,
    rotary_pct: float | None = None,
    key_value_heads: int | None = None,
    token_ids: dict[str, int | None] | None = None,
) -> LlamaConfig | GPTNeoXConfig:
    """The Hugging Face config of a new model; arguments and errors as `build_plain_model`."""
    shape = find_size(size) if isinstance(size, str) else size
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": float(base)}
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": train_length,
        "initializer_range": shape.width**-0.5,
        "tie_word_embeddings": shape.tied,
        "rope_parameters": rotary,
        **{"bos_token_id": None, "eos_token_id": None, **(token_ids or {})},
    }
    if family == "llama":
        settings |= {"intermediate_size": shape.intermediate, "num_key_value_heads": key_value_heads or shape.heads}
        return LlamaConfig(**settings, rms_norm_eps=1e-5)
    if family == "gpt_neox":
        rotary["partial_rotary_factor"] = 0.25 if rotary_pct is None else rotary_pct
        return GPTNeoXConfig(**settings, intermediate_size=4 * shape.width)
    raise FamilyError(f"unknown family '{family}': choose one of {', '.join(FAMILIES)}")


def find_size(name: str) -> Size:
    """The shape called `name`.

    Raises:
        ConfigError: there is no such name.
    """
    if name not in SIZES:
        raise ConfigError(f"unknown size '{name}': choose one of {', '.join(SIZES)}")
    return SIZES[name]


@torch.no_grad()
def initialise(model: PreTrainedModel, seed: int) -> None:
    """Draw the weights: matrices from N(0, 1/width), halved where they write into the residual stream; biases 0.

    With the customary N(0, 0.02) models of a million weights did not learn to retrieve in the same time.
    """
    generator = torch.Generator().manual_seed(seed)
    deviation = model.config.hidden_size**-0.5
    for name, parameter in model.named_parameters():
        owner = name.split(".")[-2]
        if parameter.ndim >= 2:
            share = 0.5 if owner in OUTPUT_PROJECTIONS else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (deviation * share))
        elif name.endswith(".bias"):
            parameter.zero_()
