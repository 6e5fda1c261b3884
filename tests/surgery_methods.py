"""What surgery is tested with: every method that is found, at settings that make a difference, and every family."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from conftest import FAMILIES

METHODS = (
    "pi",
    "ntk",
    "dynamic_ntk(factor=4.0)",
    "yarn",
    "yarn(ramp='turns')",
    "llama3",
    "long_rope(start_tokens=4, static_for='target')",
    "base_change",
    "log_n",
    "alibi",
    "pope",
    "pope(width='half')",
    "coca",
    "coca(form='slack')",
    "coca(form='strict', gate='softplus')",
    "coca+dynamic_ntk(factor=4.0)",
    "pope+yarn",
    "rope",
)
GROWING = ("dynamic_ntk(factor=4.0)", "coca+dynamic_ntk(factor=4.0)")
"""Methods whose frequencies follow the length."""
THOROUGH = ("llama", "gpt_neox", "cohere", "gemma3_text")
"""Families on which every method is tried by default: plain, partial and fused, interleaved, nested and sliding."""
SHORT = ("rope", "yarn", "dynamic_ntk(factor=4.0)", "coca", "pope", "alibi")
"""Methods that are tried by default on the others: one for each way in which a method acts."""


def matrix(methods: tuple[str, ...] = METHODS) -> list[pytest.ParameterSet]:
    """Every family with each of `methods`; what another family or method stands for is marked slow."""
    return [
        pytest.param(
            family,
            text,
            id=f"{family}-{text}",
            marks=() if family in THOROUGH or text in SHORT else pytest.mark.slow,
        )
        for family in FAMILIES
        for text in methods
    ]


TARGET = 256
"""Tokens that the tests reach for; the tiny models were made for 64."""


def ids(rows: int = 2, length: int = 100, seed: int = 0) -> torch.Tensor:
    """Random token ids, `rows length`."""
    return torch.randint(3, 128, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: torch.Tensor, **kwargs: object) -> torch.Tensor:
    """Of one forward without a cache."""
    return model(tokens, use_cache=False, **kwargs).logits
