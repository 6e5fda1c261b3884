"""The length that a server derives, by the table of rules of vLLM 0.33."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from transformers import PreTrainedModel

import longspan as ls
from longspan.doctor.storage import derived_length

LENGTH = 64


@pytest.mark.parametrize(
    ("rope", "derived"),
    [
        ({}, 64),
        ({"rope_type": "default"}, 64),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 16}, 16),
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 2.0}, 128),
        ({"rope_type": "a_vendor_s_own", "factor": 8.0}, 512),
        ({"rope_type": "a_vendor_s_own"}, 64),
        ({"full_attention": {"rope_type": "linear", "factor": 4.0}, "sliding_attention": {}}, 64),
    ],
)
def test_rope_types_that_a_server_multiplies(rope: dict, derived: int) -> None:
    assert derived_length({"max_position_embeddings": LENGTH, "rope_parameters": rope}) == derived


def test_the_tokenizer_bounds_it(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    assert derived_length({"max_position_embeddings": LENGTH}, tokenizer_limit=32) == 32
    assert derived_length({"max_position_embeddings": LENGTH}, tokenizer_limit=int(1e30)) == LENGTH
    model = tiny_model("llama")
    ls.extend(model, "yarn", target_length=256)
    short = SimpleNamespace(model_max_length=LENGTH)
    check = ls.doctor(model, tokenizer=short)["server_length"]  # type: ignore[arg-type]
    assert (check.passed, check.measured) == (False, 64)
