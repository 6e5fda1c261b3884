"""The model of a run before its first step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from longspan import surgery
from longspan.data.mixture import MixtureDataset
from longspan.equation import Position
from longspan.errors import ConfigError, DataError
from longspan.models import load_model
from longspan.registry import methods_to_json, parse_methods
from longspan.train.config import RunConfig
from longspan.train.prepare import Prepared
from longspan.train.sizes import build_plain_model, install_methods


def make_model(config: RunConfig, prepared: Prepared, *, begun: bool) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model before its first step, with its methods, and what `plan.json` says about them.

    Where the run has `begun`, weights will come from its state.
    """
    tokenizer, wanted = prepared.tokenizer, config.model
    if wanted.from_ is None:
        assert wanted.family is not None
        assert wanted.size is not None
        assert wanted.base is not None
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        model = build_plain_model(
            wanted.family,
            wanted.size,
            len(tokenizer),
            config.train_length,
            wanted.base,
            config.seed,
            rotary_pct=wanted.rotary_pct,
            key_value_heads=wanted.key_value_heads,
            token_ids=ids,
        )
        patch = install_methods(model, config.methods, config.train_length)
    else:
        model = load_model(wanted.from_, device="cpu", dtype="float32")
        if len(tokenizer) > model.config.vocab_size:
            raise DataError(
                f"the tokenizer has {len(tokenizer)} tokens and {wanted.from_} only {model.config.vocab_size}: "
                "leave data.tokenizer out to take the model's own"
            )
        patch = _patch(config, prepared, model, begun=begun)
    if config.train_length > surgery.target_length(model):
        raise ConfigError(
            f"train_length {config.train_length} is longer than the model's window of"
            f" {surgery.target_length(model)} tokens: set target_length and a method"
        )
    return model, _plan_values(model, patch)


def _patch(config: RunConfig, prepared: Prepared, model: PreTrainedModel, *, begun: bool) -> surgery.Patch | None:
    """Put the methods of the run into a trained model, and have CoCA's t begin as the settings say."""
    methods = [
        method.for_run(config.train_length, config.total_steps) if isinstance(method, Position) else method
        for method in parse_methods(config.methods)
    ]
    if config.start is None:
        if not methods:
            return None
        return surgery.extend(model, methods, target_length=config.target_length, again=config.again)
    start = "mean" if begun else config.start
    return surgery.convert(
        model,
        methods,
        start=start,
        ids=_first_windows(config, prepared) if start == "fit" else None,
        seed=config.seed,
        target_length=config.target_length,
        again=config.again,
    )


def _first_windows(config: RunConfig, prepared: Prepared) -> Tensor:
    """The first windows of the run, without positions: what t is fitted on."""
    assert prepared.tokens is not None
    assert config.data.mixture is not None
    windows = MixtureDataset(
        prepared.tokens, prepared.tokenizer, config.train_length, config.data.mixture, config.seed, surgery.FIT_WINDOWS
    )
    return torch.stack([windows[number]["input_ids"] for number in range(len(windows))])


def _plan_values(model: PreTrainedModel, patch: surgery.Patch | None) -> dict[str, Any]:
    """What `plan.json` says: the methods in force and each place that this run patched."""
    values: dict[str, Any] = {
        "family": model.config.model_type,
        "methods": methods_to_json(surgery.current_methods(model)),
        "original_length": surgery.original_length(model),
        "target_length": surgery.target_length(model),
        "changes": [],
    }
    if patch is not None:
        values |= patch.plan.to_json()
    return {**values, "parameters": sum(parameter.numel() for parameter in model.parameters())}
