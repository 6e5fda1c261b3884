"""Where soft tokens stand, and where the text then stands."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from longspan.errors import ConfigError
from longspan.systems.hprompt_cpt.arm_settings import Policy


def prompted_positions(mask: Bool[Tensor, "B S"], prompts: int, policy: Policy, first: int = 0) -> Int[Tensor, "B n+S"]:
    """Positions of `prompts` soft tokens, which are stored first, and of the text behind them.

    Args:
        mask: the tokens that are no padding, which comes last: `last` counts these alone.
        first: position of a model's first token; above 0 in models that keep some for padding.
    """
    soft = torch.arange(prompts, device=mask.device).expand(len(mask), -1)
    text = torch.arange(mask.shape[1], device=mask.device).expand(len(mask), -1)
    if policy == "shift":
        text = text + prompts
    elif policy == "zero":
        soft = torch.zeros_like(soft)
    elif policy == "negative":
        soft = soft - prompts
    else:
        soft = soft + mask.sum(1, keepdim=True)
    return torch.cat([soft, text], 1) + first


def learned_positions(model: PreTrainedModel) -> nn.Embedding | None:
    """The table of learned positions, or None where positions are rotary."""
    names = ("position_embeddings", "wpe", "embed_positions")
    for name, module in model.base_model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in names:
            return module
    return None


def first_position(model: PreTrainedModel) -> int:
    """Position of the first token: RoBERTa and its kin count from behind their padding."""
    table = learned_positions(model)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def window_of(model: PreTrainedModel) -> int:
    """Tokens that the model was made to read."""
    table = learned_positions(model)
    return model.config.max_position_embeddings if table is None else table.num_embeddings - first_position(model)


def check_fit(model: PreTrainedModel, length: int, prompts: int, policy: Policy, arm: str) -> None:
    """Make sure that prompt and text have positions.

    Raises:
        ConfigError: they do not fit into the model's window, or it has no negative positions.
    """
    window = window_of(model)
    if prompts >= window:
        raise ConfigError(
            f"arms.{arm}.prompt: {prompts} soft tokens are longer than the model's window of {window}: shorten it"
        )
    if policy == "negative" and learned_positions(model) is not None:
        raise ConfigError(
            f"arms.{arm}.prompt.position: negative needs rotary positions, and this model learned a table of them:"
            " take shift, zero or last"
        )
    needed = length + (prompts if policy in ("shift", "last") else 0)
    if needed > window:
        raise ConfigError(
            f"arms.{arm}.prompt: {prompts} soft tokens and a text of {length} need {needed} positions, more than the"
            f" model's window of {window}: shorten one of them, for all arms alike"
        )
