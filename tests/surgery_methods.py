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
    "self_extend(neighbors=16, group=4)",
    "dual_chunk",
    "re_rope+log_n",
    "re_rope(leak=4.0)",
    "lm_infinite(sinks=4)",
    "streaming",
    "coca+self_extend(neighbors=16, group=4)",
    "crd_ntk",
    "pi+pose",
    "ntk+random_positions",
    "yarn+skip_align",
    "pi+s2(group=16)",
    "ntk+select_merge(region=4,top=16,merge=4)",
    "select_merge(region=4,top=16,merge=4,positions='selected',route_heads='kv')",
    "coca+select_merge(region=4,top=16,merge=4,positions='selected_absolute')",
    "yarn+dense",
    "rope",
)
GROWING = ("dynamic_ntk(factor=4.0)", "coca+dynamic_ntk(factor=4.0)")
"""Methods whose frequencies follow the length."""
BANDED = ("self_extend", "dual_chunk", "re_rope", "lm_infinite", "streaming", "select_merge")
"""Names in the spelling of methods that move or choose far keys: layers that slide have none."""
SHORT = ("dynamic_ntk(factor=4.0)", "coca", "alibi")
"""Methods that are tried on every family by default: one for each way in which a method acts."""

VARIED = (
    "pi",
    "ntk",
    "llama3",
    "base_change",
    "log_n",
    "coca(form='slack')",
    "yarn(ramp='turns')",
    "coca(form='strict', gate='softplus')",
    "pope+yarn",
    "pi+s2(group=16)",
    "select_merge(region=4,top=16,merge=4,positions='selected',route_heads='kv')",
    "coca+select_merge(region=4,top=16,merge=4,positions='selected_absolute')",
    "pope(width='half')",
    "self_extend(neighbors=16, group=4)",
    "re_rope+log_n",
    "re_rope(leak=4.0)",
    "lm_infinite(sinks=4)",
    "streaming",
    "crd_ntk",
    "pi+pose",
    "ntk+random_positions",
    "yarn+skip_align",
    "yarn+dense",
)
"""Methods that act as another here does: where it is not a matter of the method itself, they are slow."""


def matrix(methods: tuple[str, ...] = METHODS) -> list[pytest.ParameterSet]:
    """Every family with each of `methods`; what another family or method stands for is marked slow."""
    return [
        pytest.param(
            family,
            text,
            id=f"{family}-{text}",
            marks=() if _by_default(family, text) else pytest.mark.slow,
        )
        for family in FAMILIES
        for text in methods
    ]


def _by_default(family: str, text: str) -> bool:
    return text in SHORT or family == FAMILIES[0]


TARGET = 256
"""Tokens that the tests reach for; the tiny models were made for 64."""


def ids(rows: int = 2, length: int = 100, seed: int = 0) -> torch.Tensor:
    """Random token ids, `rows length`."""
    return torch.randint(3, 128, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: torch.Tensor, **kwargs: object) -> torch.Tensor:
    """Of one forward without a cache."""
    return model(tokens, use_cache=False, **kwargs).logits
