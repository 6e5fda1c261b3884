"""Stages of training: which parts of the model learn, from which step on."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from longspan.errors import ConfigError
from longspan.train.config import RunConfig


class Stages(TrainerCallback):
    """Before each step, has the parts of its stage learn and no others; all parts where the settings name none.

    A part that does not learn has no gradient, so AdamW leaves it as it is, weight decay included.
    """

    def __init__(self, config: RunConfig, model: nn.Module) -> None:
        """Find what the settings name in `model`.

        Raises:
            ConfigError: a name is that of no part.
        """
        self.model = model
        self.stages = [
            (round(share * config.total_steps), learning(model, names))
            for share, names in sorted((config.trainable or {}).items())
        ]

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        begun = [names for first, names in self.stages if first <= state.global_step]
        if begun:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name in begun[-1])


def learning(model: nn.Module, parts: Collection[str]) -> set[str]:
    """Names of the parameters that belong to one of `parts`: module or parameter names such as `k_proj` or `*norm*`.

    Raises:
        ConfigError: a part that the model does not have.
    """
    names = [name for name, _ in model.named_parameters()]
    found: set[str] = set()
    for part in parts:
        belonging = {name for name in names if any(fnmatchcase(piece, part) for piece in name.split("."))}
        if not belonging:
            pieces = sorted({piece for name in names for piece in name.split(".") if not piece.isdigit()})
            raise ConfigError(f"trainable: the model has no part '{part}': choose from {', '.join(pieces)}")
        found |= belonging
    return found
