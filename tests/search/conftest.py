from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from conftest import make_model


@pytest.fixture
def model() -> PreTrainedModel:
    """A random Llama of window 64 whose heads have 8 pairs."""
    return make_model("llama", num_attention_heads=2, num_key_value_heads=1)


@pytest.fixture
def documents() -> list[torch.Tensor]:
    """Two documents of 130 random tokens."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 128, (130,), generator=generator) for _ in range(2)]
