"""A model that is extended already: refused by name, or extended again from its original length."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import longspan as ls
from longspan.errors import FamilyError, LengthError, MethodError
from longspan.registry import format_methods
from longspan.surgery import current_methods, is_extended, original_length, target_length
from surgery_methods import TARGET, ids, logits

Maker = Callable[[str], PreTrainedModel]
FARTHER = 4 * TARGET
THEIRS = {
    "pi(factor=4.0)": (64, {"rope_type": "linear", "factor": 4.0}),
    "dynamic_ntk(factor=4.0)": (64, {"rope_type": "dynamic", "factor": 4.0}),
    "yarn(factor=4.0)": (256, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
}


def by_transformers(model: PreTrainedModel, length: int, rope: dict) -> LlamaForCausalLM:
    settings = {**model.config.to_dict(), "max_position_embeddings": length}
    settings["rope_parameters"] = {"rope_theta": 10000.0, **rope}
    other = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize(
    ("first", "second", "lengths"),
    [
        ("yarn", "pi", {"target_length": FARTHER}),
        ("yarn", "yarn", {"target_length": FARTHER}),
        ("yarn", "log_n", {"target_length": TARGET}),
        ("coca+yarn", "none", {"target_length": FARTHER}),
        ("pi", "coca", {"target_length": FARTHER}),
    ],
)
def test_a_second_extension_is_refused_by_the_method_and_the_lengths_of_the_first(
    first: str, second: str, lengths: dict, tiny_model: Maker
) -> None:
    model = tiny_model("llama")
    ls.extend(model, first, target_length=TARGET)
    before = logits(model, ids())
    by = first.rpartition("+")[2]
    with pytest.raises(MethodError, match=f"already extended from 64 to 256 tokens by {by}: .*--again, again=True"):
        ls.extend(model, second, **lengths)
    assert torch.equal(logits(model, ids()), before)


@pytest.mark.parametrize("methods", THEIRS)
def test_what_transformers_has_extended_is_refused_too(methods: str, tiny_model: Maker) -> None:
    model = by_transformers(tiny_model("llama"), *THEIRS[methods])
    assert is_extended(model)
    assert (original_length(model), target_length(model)) == (64, TARGET)
    with pytest.raises(MethodError) as caught:
        ls.extend(model, "yarn", target_length=FARTHER)
    assert f"from 64 to 256 tokens by {methods}:" in str(caught.value)


@pytest.mark.parametrize("trained", ["coca", "pope", "log_n", "coca(form='slack')"])
def test_a_model_that_was_trained_with_a_method_is_not_extended(trained: str, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, trained, target_length=64)
    assert not is_extended(model)
    with ls.extend(model, "pi", target_length=TARGET):
        assert format_methods(current_methods(model)) == f"{trained}+pi"
        assert is_extended(model)


def test_a_feature_joins_an_extended_model_at_its_length(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "yarn", target_length=TARGET)
    with ls.extend(model, "coca", target_length=TARGET):
        assert format_methods(current_methods(model)) == "yarn+coca"


@pytest.mark.parametrize("second", ["yarn", "pi", "ntk", "dynamic_ntk(factor=16)", "llama3"])
@pytest.mark.parametrize("first", ["yarn", "pi", *THEIRS])
def test_again_is_what_the_new_method_gives_from_the_original_length(
    first: str, second: str, tiny_model: Maker
) -> None:
    plain = tiny_model("llama")
    model = by_transformers(plain, *THEIRS[first]) if first in THEIRS else copy.deepcopy(plain)
    if first not in THEIRS:
        ls.extend(model, first, target_length=TARGET)
    before = logits(model, ids())
    ls.extend(plain, second, target_length=FARTHER)
    with ls.extend(model, second, target_length=FARTHER, again=True) as patch:
        assert torch.equal(logits(model, ids()), logits(plain, ids()))
        assert patch.plan.saved() == plain.config.longspan
        assert f"extended before to 256 tokens, {first} is replaced" in str(patch.plan).splitlines()[1]
    assert torch.equal(logits(model, ids()), before)


def test_again_keeps_the_feature_that_the_model_computes_with(tiny_model: Maker) -> None:
    model, once = tiny_model("llama"), tiny_model("llama")
    ls.extend(model, "coca+yarn", target_length=TARGET)
    ls.extend(once, "coca+pi", target_length=FARTHER)
    ls.extend(model, "pi", target_length=FARTHER, again=True)
    assert torch.equal(logits(model, ids()), logits(once, ids()))


def test_again_without_a_method_takes_the_same_one_farther(tiny_model: Maker) -> None:
    model, once = tiny_model("llama"), tiny_model("llama")
    ls.extend(model, "yarn", target_length=TARGET)
    ls.extend(once, "yarn", target_length=FARTHER)
    patch = ls.extend(model, "none", target_length=FARTHER, again=True)
    assert torch.equal(logits(model, ids()), logits(once, ids()))
    assert "yarn stays in force" in str(patch.plan)


def test_again_adds_what_fits_beside_the_first(tiny_model: Maker) -> None:
    model, once = tiny_model("llama"), tiny_model("llama")
    ls.extend(model, "pi", target_length=TARGET)
    ls.extend(once, "pi+log_n", target_length=FARTHER)
    ls.extend(model, "log_n", target_length=FARTHER, again=True)
    assert torch.equal(logits(model, ids()), logits(once, ids()))


@pytest.mark.parametrize(
    ("first", "second", "error", "says"),
    [
        ("coca+yarn", "pope", MethodError, "computes with coca: it and PoPE both fill the slot 'feature'"),
        ("alibi+log_n", "pi", MethodError, "computes with alibi: it and Pi both fill the slot 'frequency'"),
        ("yarn", "log_n", MethodError, "computes with yarn: it and LogN both fill the slot 'scale'"),
        ("pi(factor=4)", "log_n", LengthError, "reaches 256 tokens by a factor of its own: name a method that"),
    ],
)
def test_again_never_drops_half_a_method_or_what_the_model_computes_with(
    first: str, second: str, error: type[Exception], says: str, tiny_model: Maker
) -> None:
    model = tiny_model("llama")
    ls.extend(model, first, target_length=TARGET)
    with pytest.raises(error, match=says.replace("(", r"\(").replace(")", r"\)")):
        ls.extend(model, second, target_length=FARTHER, again=True)


def test_again_on_a_model_that_is_not_extended_is_refused(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    for trained in ("none", "coca"):
        ls.extend(model, trained, target_length=64)
        with pytest.raises(MethodError, match="not extended yet, so 'again' has no effect"):
            ls.extend(model, "yarn", target_length=TARGET, again=True)


def test_a_model_extended_again_saves_and_loads(tiny_model: Maker, tmp_path: Path) -> None:
    model = tiny_model("llama")
    ls.extend(model, "coca+yarn", target_length=TARGET)
    ls.extend(model, "pi", target_length=FARTHER, again=True)
    model.save_pretrained(tmp_path)
    loaded = ls.load(tmp_path)
    assert format_methods(current_methods(loaded)) == "coca+pi"
    assert torch.equal(logits(loaded, ids()), logits(model, ids()))


def test_a_class_with_code_of_its_own_is_refused_rather_than_dropped(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    model.__class__ = type("TheirForCausalLM", (LlamaForCausalLM,), {})
    with pytest.raises(FamilyError, match="TheirForCausalLM is built on LlamaForCausalLM and has code"):
        ls.extend(model, "yarn", target_length=TARGET)


def test_a_selection_makes_room_for_another_and_a_front_that_holds_all_is_plain_attention(tiny_model: Maker) -> None:
    model, plain = tiny_model("llama"), tiny_model("llama")
    ls.extend(model, "select_merge(region=4,top=4,merge=2)", target_length=64)
    chosen = logits(model, ids())
    with ls.extend(model, "select_merge(region=4,top=16,merge=2)", target_length=64):
        assert format_methods(current_methods(model)) == "select_merge(region=4, top=16, merge=2)"
        torch.testing.assert_close(logits(model, ids())[:, :64], logits(plain, ids())[:, :64])
    assert torch.equal(logits(model, ids()), chosen)
    assert not torch.equal(chosen, logits(plain, ids()))
