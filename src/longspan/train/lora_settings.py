"""The settings of low-rank adapters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from longspan.train.settings import Settings


class LoraSettings(Settings):
    """Low-rank adapters (LoRA): what learns in place of the weights that they stand beside."""

    rank: Annotated[int, Field(gt=0)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The product of the two matrices counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the linear layers that get an adapter, such as `q_proj`; null: those of attention."""
    train_embeddings_and_norms: bool = False
    """Have the token embeddings and all norms learn too; the head only where it is the same matrix."""
