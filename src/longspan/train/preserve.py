"""Agreement: while a window is extended, short text shall be predicted as before.

Formula   L + weight * mean over tokens of KL(original || trained), both on the first `length` tokens of each window
Source    the agreement loss of HPrompt-CPT (arXiv:2310.13024, our reading) without its random prompt: there, too, the
          teacher is the model before the training
Differs   from `distill`, which mixes the original's predictions into the loss of the training windows themselves, at
          the positions drawn for them: here the trained model reads a second time, as it will be used: plain positions,
          its final frequencies, full attention, no dropout
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from longspan import surgery
from longspan.errors import ConfigError
from longspan.models import load_model
from longspan.train.distill import kl_divergence
from longspan.train.settings import Length, Settings


class PreserveSettings(Settings):
    """What is done to keep the behaviour on short text; `preserve: agreement` takes the defaults."""

    loss: Literal["agreement"]
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How much it counts beside the loss of the training windows."""
    length: Length | None = None
    """Tokens of the short text; null: the original window, or the training window if that is shorter."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        return {"loss": values} if isinstance(values, str) else values


class Agreement:
    """The original model, and how far the trained one has moved from it on short text."""

    def __init__(self, settings: PreserveSettings, teacher: PreTrainedModel, train_length: int) -> None:
        """
        Raises:
            ConfigError: `preserve.length` is longer than the training windows or than the original window.
        """
        self.teacher = teacher.eval().requires_grad_(False)
        self.weight = settings.weight
        longest = min(train_length, surgery.target_length(teacher))
        self.length = settings.length or longest
        if self.length > longest:
            raise ConfigError(
                f"preserve.length {self.length} is more than the {longest} tokens that both the training windows and"
                " the original model have: shorten it"
            )

    @classmethod
    def load(cls, settings: PreserveSettings, source: str, train_length: int, device: torch.device) -> Agreement:
        """With the model at `source`, as it is before it is extended.

        Raises:
            CheckpointError: it cannot be read. ConfigError: as above.
        """
        return cls(settings, load_model(source, device=device.type, dtype="float32"), train_length)

    def loss(self, model: nn.Module, input_ids: Int[Tensor, "B T"], rows: float) -> Float[Tensor, ""]:
        """The weighted mean divergence over the tokens of `rows` windows, of which these are some.

        Args:
            model: the trained one, read in evaluation mode: nothing that acts in training alone is in force.
        """
        short = input_ids[:, : self.length]
        training = model.training
        model.eval()
        logits = model(input_ids=short, use_cache=False).logits
        model.train(training)
        with torch.no_grad():
            wanted = self.teacher(input_ids=short, use_cache=False).logits
        return self.weight * kl_divergence(wanted, logits, short, 1.0) / (rows * (self.length - 1))
