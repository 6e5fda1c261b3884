"""The same frequencies put into a plain Llama by us and by transformers itself: logits must agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import longspan as ls
from longspan.errors import FamilyError, MethodError
from longspan.registry import format_methods
from longspan.surgery import current_methods
from tolerances import LOGITS, logit_distance

ORIGINAL, TARGET = 64, 256
CASES = {
    "pi": {"rope_type": "linear", "factor": 4.0},
    "dynamic_ntk": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "base_change(base=500000.0)": {"rope_type": "default", "rope_theta": 500000.0},
}


def theirs(model: PreTrainedModel, rope: dict) -> LlamaForCausalLM:
    """The model with the same weights, built by transformers with `rope` in its config."""
    settings = {key: value for key, value in model.config.to_dict().items() if key != "rope_parameters"}
    dynamic = rope["rope_type"] in ("dynamic", "linear")
    settings["max_position_embeddings"] = ORIGINAL if dynamic else TARGET
    other = LlamaForCausalLM(LlamaConfig(**settings, rope_parameters={"rope_theta": 10000.0, **rope})).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("length", [ORIGINAL // 2, ORIGINAL, 2 * ORIGINAL, TARGET])
@pytest.mark.parametrize("methods_text", CASES)
@torch.no_grad()
def test_logits_equal_transformers_own(
    methods_text: str, length: int, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    model = tiny_model("llama")
    other = theirs(model, CASES[methods_text])
    tokens = torch.randint(3, 128, (2, length), generator=torch.Generator().manual_seed(0))
    with ls.extend(model, methods_text, target_length=TARGET):
        found = model(tokens, use_cache=False).logits
    assert logit_distance(found, other(tokens, use_cache=False).logits) < LOGITS


@pytest.mark.parametrize("methods_text", [name for name in CASES if "base" not in name])
@torch.no_grad()
def test_scaling_already_in_the_config_is_kept_when_a_feature_is_added(
    methods_text: str, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    other = theirs(tiny_model("llama"), CASES[methods_text])
    tokens = torch.randint(3, 128, (2, 100), generator=torch.Generator().manual_seed(0))
    before = other(tokens, use_cache=False).logits
    with ls.extend(other, []):
        assert format_methods(current_methods(other)).startswith(methods_text)
        assert logit_distance(other(tokens, use_cache=False).logits, before) < LOGITS
    with pytest.raises(MethodError, match="both fill the slot 'frequency'"):
        ls.extend(other, "ntk", target_length=1024)


def test_a_rope_type_without_counterpart_is_refused(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model = tiny_model("llama")
    model.config.rope_parameters = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0}
    with pytest.raises(FamilyError, match="rope type 'longrope'"):
        ls.extend(model, "coca")
