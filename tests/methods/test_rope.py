from __future__ import annotations

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longspan.equation import Window
from longspan.methods.frequency.rope import Rope


def test_frequencies_equal_transformers_default_rope() -> None:
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=128)
    window = Window(rotary_dim=16, base=10000.0, original_length=128, target_length=128)
    assert torch.allclose(Rope().frequency(window).float(), LlamaRotaryEmbedding(config).inv_freq, rtol=1e-6)
