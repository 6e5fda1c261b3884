"""Distillation: what the original model predicts is a second target while a changed model is healed on short text."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan import surgery
from longspan.data.tokenizer import tokenizer_hash
from longspan.errors import ConfigError, DataError
from longspan.models import load_model, load_tokenizer
from longspan.train.settings import Settings


class DistillSettings(Settings):
    """The loss is (1 - weight) cross-entropy + weight temperature^2 KL(original || trained), both at temperature."""

    from_: str = Field(alias="from")
    """Folder or name of the original model: same tokenizer, and a window no shorter than `train_length`."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the loss; 1 leaves only what the original predicts."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits of both models are divided by it: above 1, unlikely tokens count for more."""


class Teacher:
    """The original model, which only predicts."""

    def __init__(self, settings: DistillSettings, model: PreTrainedModel) -> None:
        self.settings = settings
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def load(
        cls,
        settings: DistillSettings,
        tokenizer: PreTrainedTokenizerBase,
        student: PreTrainedModel,
        train_length: int,
        device: torch.device,
    ) -> Teacher:
        """The model that `settings` name, on `device`.

        Raises:
            CheckpointError: it cannot be read.
            DataError: it has another tokenizer or vocabulary than the student.
            ConfigError: its window is shorter than the training windows.
        """
        name = settings.from_
        model = load_model(name, device=device.type, dtype="float32")
        if tokenizer_hash(load_tokenizer(name)) != tokenizer_hash(tokenizer):
            raise DataError(f"distill.from: {name} has another tokenizer than the run: name the model it started from")
        if model.config.vocab_size != student.config.vocab_size:
            raise DataError(
                f"distill.from: {name} predicts {model.config.vocab_size} tokens, the trained model"
                f" {student.config.vocab_size}: name the model it started from"
            )
        if train_length > surgery.target_length(model):
            raise ConfigError(
                f"distill.from: {name} reads {surgery.target_length(model)} tokens, fewer than train_length"
                f" {train_length}: distil on windows that the original knows"
            )
        return cls(settings, model)

    def loss(
        self, cross_entropy: Tensor, logits: Tensor, input_ids: Tensor, labels: Tensor, items: Tensor | int
    ) -> Tensor:
        """The mixed loss.

        Args:
            cross_entropy: of the trained model, a sum over tokens divided by `items`.
            logits: its own, `B T vocabulary`.
            labels: `B T`; -100 is not predicted.
            items: predicted tokens of the whole optimizer step.
        """
        with torch.no_grad():
            wanted = self.model(input_ids=input_ids, use_cache=False).logits
        weight, temperature = self.settings.weight, self.settings.temperature
        divergence = kl_divergence(wanted, logits, labels, temperature) / items
        return (1 - weight) * cross_entropy + weight * temperature**2 * divergence


def kl_divergence(wanted: Tensor, logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """KL(wanted || logits) in nats, summed over the predicted tokens.

    Args:
        wanted, logits: `B T vocabulary`; place t predicts token t + 1.
        labels: `B T`; -100 is not predicted.
    """
    predicted = labels[:, 1:] != -100
    return divergence(wanted[:, :-1][predicted], logits[:, :-1][predicted], temperature)


def divergence(wanted: Float[Tensor, "N V"], logits: Float[Tensor, "N V"], temperature: float = 1.0) -> Tensor:
    """KL(wanted || logits) in nats, summed over tokens; both logits are divided by `temperature`."""
    target, found = (functional.log_softmax(values.float() / temperature, dim=-1) for values in (wanted, logits))
    return functional.kl_div(found, target, reduction="sum", log_target=True)
