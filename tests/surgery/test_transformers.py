"""The same frequencies put into a plain model by us and by transformers itself: logits must agree."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import longspan as ls
from longspan.errors import FamilyError, MethodError
from longspan.registry import format_methods
from longspan.surgery import current_methods
from longspan.surgery.families import FAMILIES
from tolerances import LOGITS, logit_distance

ORIGINAL, TARGET = 64, 256
IDS = torch.randint(3, 128, (2, 100), generator=torch.Generator().manual_seed(0))
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
    with pytest.raises(MethodError, match="already extended from 64 to 256 tokens by"):
        ls.extend(other, "ntk", target_length=1024)


WITH_ROPE_TYPES = tuple(family for family in FAMILIES if family != "gptj")
PARTIAL = ("gpt_neox", "stablelm")
"""transformers scales only the part that rotates, our temperature the whole logit."""


def their_own(model: PreTrainedModel, rope: dict, target: int) -> PreTrainedModel:
    """The model with the same weights and `rope` in its config, where nested for the global layers."""
    config = copy.deepcopy(model.config)
    config.max_position_embeddings = target
    present = config.rope_parameters
    if "full_attention" in present:
        config.rope_parameters = {**present, "full_attention": {**present["full_attention"], **rope}}
    else:
        config.rope_parameters = {**present, **rope}
    other = type(model)(config).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("methods_text", ["pi", "dynamic_ntk", "yarn", "llama3"])
@pytest.mark.parametrize("family", WITH_ROPE_TYPES)
@torch.no_grad()
def test_logits_of_every_family_equal_transformers_own(
    family: str, methods_text: str, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    model, rope = tiny_model(family), dict(CASES[methods_text])
    target = ORIGINAL if rope["rope_type"] in ("dynamic", "linear") else TARGET
    if methods_text == "yarn" and family in PARTIAL:
        rope["attention_factor"], methods_text = 1.0, "yarn(attention_factor=1.0)"
    expected = their_own(model, rope, target)(IDS, use_cache=False).logits
    before = model(IDS, use_cache=False).logits
    with ls.extend(model, methods_text, target_length=TARGET):
        found = model(IDS, use_cache=False).logits
    assert logit_distance(found, expected) < LOGITS
    assert logit_distance(found, before) > 1e-2


@pytest.mark.parametrize("family", WITH_ROPE_TYPES)
@torch.no_grad()
def test_scaling_in_the_config_of_any_family_is_taken_over(
    family: str, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    rope = {**CASES["yarn"], "attention_factor": 1.0} if family in PARTIAL else CASES["yarn"]
    other = their_own(tiny_model(family), rope, TARGET)
    before = other(IDS, use_cache=False).logits
    with ls.extend(other, []):
        assert format_methods(current_methods(other)).startswith("yarn")
        assert other.config.longspan["original_length"] == ORIGINAL
        assert logit_distance(other(IDS, use_cache=False).logits, before) < LOGITS


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("given", [{}, {"factor": 8.0}, {"attention_factor": 1.5}])
@torch.no_grad()
def test_longrope_in_the_config_is_taken_over(
    family: str, given: dict, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    factors = {"short_factor": [1.0, 1.0, 1.5, 2.0], "long_factor": [1.0, 1.7, 3.1, 4.9]}
    rope = {"rope_type": "longrope", "original_max_position_embeddings": ORIGINAL, **factors, **given}
    other = their_own(tiny_model(family), rope, TARGET)
    before = [other(IDS[:, :length], use_cache=False).logits for length in (ORIGINAL, ORIGINAL + 1, 100)]
    with ls.extend(other, []):
        assert format_methods(current_methods(other)).startswith("long_rope(short_factor=(1.0, 1.0, 1.5, 2.0)")
        for expected in before:
            found = other(IDS[:, : expected.shape[1]], use_cache=False).logits
            assert logit_distance(found, expected) < LOGITS


@pytest.mark.parametrize("kind", ["yarn", "longrope"])
def test_a_temperature_on_a_part_of_a_head_is_refused(kind: str, tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model = tiny_model("gpt_neox")
    factors = {"factor": 4.0, "short_factor": [1.0, 1.0], "long_factor": [1.0, 2.0]}
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_type": kind, **factors}
    with pytest.raises(FamilyError, match=f"already uses {kind} with a head that rotates in part"):
        ls.extend(model, "coca")


@pytest.mark.parametrize(
    ("rope", "says"),
    [
        ({"rope_type": "proportional"}, "rope type 'proportional', which has no counterpart"),
        ({"rope_type": "yarn"}, "rope type 'yarn' but no factor"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 4}, "rope type 'longrope' but no long_factor"),
    ],
)
def test_rope_types_without_counterpart_or_whole_parameters_are_refused(
    rope: dict, says: str, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    model = tiny_model("llama")
    model.config.rope_parameters = {"rope_theta": 1e4, **rope}
    with pytest.raises(FamilyError, match=says):
        ls.extend(model, "coca")


def test_scaled_local_layers_are_refused(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model = tiny_model("gemma3_text")
    model.config.rope_parameters["sliding_attention"] |= {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(FamilyError, match="rope type 'linear' in its local layers"):
        ls.extend(model, "coca")
