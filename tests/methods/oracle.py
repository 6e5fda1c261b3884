"""The other side of the comparison: transformers' own frequency tables."""

from __future__ import annotations

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longspan.equation import Window

CASES = [
    {"rotary_dim": 128, "base": 1e4, "original_length": 4096, "target_length": 32768},
    {"rotary_dim": 64, "base": 1e4, "original_length": 512, "target_length": 4096},
    {"rotary_dim": 128, "base": 5e5, "original_length": 8192, "target_length": 65536},
    {"rotary_dim": 16, "base": 1e4, "original_length": 256, "target_length": 1024},
]
"""Windows that the tables are compared on."""


def transformers_table(
    rope_type: str, window: Window, length: int | None = None, **settings: float
) -> tuple[torch.Tensor, float]:
    """(inv_freq, attention_factor) that transformers computes for this window."""
    dynamic = rope_type == "dynamic"
    config = LlamaConfig(
        hidden_size=4 * window.rotary_dim,
        num_attention_heads=4,
        max_position_embeddings=window.original_length if dynamic else window.target_length,
        rope_parameters={
            "rope_type": rope_type,
            "rope_theta": window.base,
            "factor": window.factor,
            "original_max_position_embeddings": window.original_length,
            **settings,
        },
    )
    return ROPE_INIT_FUNCTIONS[rope_type](config, device="cpu", seq_len=length)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest relative difference of two tables."""
    return float((found / expected.double() - 1).abs().max())
