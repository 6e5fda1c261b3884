"""Plan, apply, undo: on every family, with every method."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaForCausalLM,
    PreTrainedModel,
)

import longspan as ls
from conftest import make_model
from longspan.equation import fill_slots
from longspan.errors import CheckpointError, FamilyError, LengthError, MethodError
from longspan.registry import all_methods, format_methods, parse_methods
from longspan.surgery import Patch, current_methods, original_length, target_length
from surgery_methods import METHODS, TARGET, ids, logits, matrix
from tolerances import LOGITS, logit_distance

Maker = Callable[[str], PreTrainedModel]


def test_the_methods_tried_are_all_there_are() -> None:
    tried = {type(method) for text in METHODS for method in parse_methods(text)}
    assert tried | {all_methods()["rope"]} == set(all_methods().values())


@pytest.mark.parametrize(("family", "methods"), matrix())
def test_undo_restores_every_bit(family: str, methods: str) -> None:
    model = make_model(
        family, **({"n_positions": 128} if family == "gptj" else {})
    )  # the plain one ends with its table
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    config, kinds = model.config.to_dict(), [type(module) for module in model.modules()]
    before = logits(model, ids())
    patch = ls.extend(model, methods, target_length=TARGET, original_length=64)
    changed = logits(model, ids())
    patch.undo()
    assert torch.equal(logits(model, ids()), before)
    assert model.config.to_dict() == config
    assert [type(module) for module in model.modules()] == kinds
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert (methods == "rope") == (logit_distance(changed, before) < 1e-5)


@pytest.mark.parametrize(("family", "methods"), matrix())
def test_eager_equals_sdpa(family: str, methods: str, tiny_model: Maker) -> None:
    model = tiny_model(family)
    if not model._supports_sdpa:
        pytest.skip(f"{family} is eager only in transformers")
    with ls.extend(model, methods, target_length=TARGET):
        model.set_attn_implementation("sdpa")
        fast = logits(model, ids())
        model.set_attn_implementation("eager")
        assert logit_distance(fast, logits(model, ids())) < LOGITS


@pytest.mark.parametrize(("family", "methods"), matrix())
def test_left_padding_changes_nothing_for_the_tokens_that_are_there(
    family: str, methods: str, tiny_model: Maker
) -> None:
    model = tiny_model(family)
    tokens = ids(rows=1, length=90)
    padded = torch.cat((torch.zeros(1, 7, dtype=torch.long), tokens), dim=1)
    mask = (torch.arange(97) >= 7).long()[None]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with ls.extend(model, methods, target_length=TARGET):
        alone = logits(model, tokens)
        beside = logits(model, padded, attention_mask=mask, position_ids=positions)
        assert logit_distance(beside[:, 7:], alone) < LOGITS


def test_a_row_does_not_depend_on_its_neighbours_length(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    short, long = ids(rows=1, length=50), ids(rows=1, length=100, seed=1)
    padded = torch.cat((torch.zeros(1, 50, dtype=torch.long), short), dim=1)
    mask = torch.stack((torch.arange(100) >= 50, torch.ones(100, dtype=torch.bool))).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with ls.extend(model, "dynamic_ntk(factor=4)", target_length=TARGET):
        together = logits(model, torch.cat((padded, long)), attention_mask=mask, position_ids=positions)
        assert logit_distance(together[:1, 50:], logits(model, short)) < LOGITS
        assert logit_distance(together[1:], logits(model, long)) < LOGITS


@pytest.mark.parametrize(("family", "methods"), matrix())
def test_a_later_token_never_moves_an_earlier_logit(family: str, methods: str, tiny_model: Maker) -> None:
    model = tiny_model(family)
    with ls.extend(model, methods, target_length=TARGET):
        tokens = ids()
        other = tokens.clone()
        other[:, -1] = (other[:, -1] + 1) % 128
        assert torch.equal(logits(model, tokens)[:, :-1], logits(model, other)[:, :-1])


@pytest.mark.parametrize(("methods_text", "relative"), [("coca", True), ("coca(form='slack')", False)])
def test_moving_all_positions_by_a_thousand(methods_text: str, relative: bool, family: str, tiny_model: Maker) -> None:
    model = tiny_model(family)
    with ls.extend(model, methods_text):
        tokens = ids(length=60)
        places = torch.arange(60)[None]
        here = logits(model, tokens, position_ids=places)
        there = logits(model, tokens, position_ids=places + 1000)
        moved = logit_distance(there, here)
        assert moved < 1e-3 if relative else moved > 1e-2


def test_methods_are_added_to_a_patched_model_and_taken_off_in_turn(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    plain = logits(model, ids())
    inner = ls.extend(model, "pope")
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "phase"):
                module.phase.fill_(-1.0)
    with_pope = logits(model, ids())
    with ls.extend(model, "yarn", target_length=TARGET) as outer:
        assert format_methods(current_methods(model)) == "pope+yarn"
        assert (original_length(model), target_length(model)) == (64, TARGET)
        assert logit_distance(logits(model, ids()), with_pope) > 1e-4
        with pytest.raises(MethodError, match="undo that one first"):
            inner.undo()
    assert outer.plan.window.factor == 4
    assert torch.equal(logits(model, ids()), with_pope)  # trained phases are still there
    inner.undo()
    assert torch.equal(logits(model, ids()), plain)


def test_a_copy_of_a_patched_model_is_a_model_of_its_own(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "coca+yarn", target_length=TARGET)
    other = copy.deepcopy(model)
    before = logits(other, ids())
    model.base_model.rotary_emb.slots = fill_slots(parse_methods("pi"))
    assert torch.equal(logits(other, ids()), before)
    assert not torch.equal(logits(model, ids()), before)


def test_the_plan_names_every_place_and_writes_nothing(tiny_model: Maker) -> None:
    model = tiny_model("qwen3")
    plan = ls.plan(model, "coca+yarn", target_length=TARGET)
    text = str(plan)
    assert text.startswith("coca+yarn: 64 -> 256 tokens, factor 4\n")
    assert "model.rotary_emb.inv_freq <- Yarn (4 pairs, slowed 1 to 4 times)" in text
    assert "model.layers.1.self_attn.k_norm <- Coca" in text
    assert current_methods(model) == ()
    assert plan.to_json()["original_length"] == 64


@pytest.mark.parametrize(
    ("methods_text", "lengths", "error", "says"),
    [
        ("yarn", {}, LengthError, "give target_length"),
        ("yarn", {"target_length": 32}, LengthError, "shorter than original_length 64"),
        ("pi+yarn", {"target_length": 128}, MethodError, "Pi and Yarn both fill"),
        ("yarm", {"target_length": 128}, MethodError, "unknown method 'yarm'"),
    ],
)
def test_what_cannot_be_applied_leaves_the_model_untouched(
    methods_text: str, lengths: dict, error: type[Exception], says: str, tiny_model: Maker
) -> None:
    model = tiny_model("llama")
    before = logits(model, ids())
    with pytest.raises(error, match=says):
        ls.extend(model, methods_text, **lengths)
    assert torch.equal(logits(model, ids()), before)
    assert not hasattr(model.config, "longspan")


def test_a_factor_of_a_method_sets_the_target(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    with ls.extend(model, "yarn(factor=8)"):
        assert target_length(model) == 512
        assert model.config.max_position_embeddings == 512


def test_a_bias_is_refused_under_kernels_that_take_none(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(MethodError, match="Alibi adds a bias"):
        ls.extend(model, "alibi")


def test_gradients_reach_every_weight(methods: str, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    with ls.extend(model, methods, target_length=TARGET):
        model(ids(), labels=ids(), use_cache=False).loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("methods_text", ["coca+dynamic_ntk(factor=4)", "log_n", "alibi", "yarn"])
def test_gradient_checkpointing_gives_the_same_gradients_even_after_another_forward(
    methods_text: str, tiny_model: Maker
) -> None:
    grads = []
    for checkpointing in (False, True):
        model = tiny_model("llama").train()
        ls.extend(model, methods_text, target_length=TARGET)
        if checkpointing:
            model.gradient_checkpointing_enable()
        loss = model(ids(), labels=ids(), use_cache=False).loss
        logits(model, ids(rows=1, length=33))  # a second pass must not change what the first one recomputes
        loss.backward()
        grads.append(model.model.layers[0].self_attn.k_proj.weight.grad)
    assert torch.equal(*grads)


def test_a_method_in_force_stays_in_force_when_another_is_added_without_a_length(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "yarn", target_length=TARGET)
    before = model.base_model.rotary_emb.inv_freq
    ls.extend(model, "coca")
    assert torch.equal(model.base_model.rotary_emb.inv_freq, before)
    assert target_length(model) == model.config.max_position_embeddings == TARGET


def test_another_model_of_the_same_config_object_is_not_touched(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    other = type(model)(model.config)
    with ls.extend(model, "coca"):
        assert current_methods(other) == ()
        assert other.config.model_type == "llama"
        assert all(m.config is model.config for m in model.modules() if hasattr(m, "config"))


def test_a_failure_midway_leaves_the_model_untouched(tiny_model: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    before = logits(model, ids())

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Patch, "_set_config", fail)
    with pytest.raises(MemoryError):
        ls.extend(model, "pope", target_length=TARGET)
    assert torch.equal(logits(model, ids()), before)
    assert not any(hasattr(module, "phase") for module in model.modules())


def test_a_patched_folder_built_by_the_plain_class_is_noticed(tiny_model: Maker, tmp_path: Path) -> None:
    model = tiny_model("llama")
    ls.extend(model, "coca")
    model.save_pretrained(tmp_path)
    plain = LlamaForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not apply: load it by"):
        current_methods(plain)


def test_a_model_that_was_dispatched_before_is_refused(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    attention = model.model.layers[1].self_attn
    attention.forward = attention.forward  # what accelerate's hooks do
    with pytest.raises(FamilyError, match=r"layers\.1\.self_attn was already given another forward"):
        ls.extend(model, "coca")


@pytest.mark.parametrize("wrong", [[ls.Yarn], ["yarn"], [3]])
def test_what_is_no_method_is_refused(wrong: list, tiny_model: Maker) -> None:
    with pytest.raises(MethodError, match="is not a method"):
        ls.extend(tiny_model("llama"), wrong, target_length=TARGET)


def test_one_method_and_a_written_length_are_taken(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    with ls.extend(model, ls.Yarn(), target_length="1k"):
        assert model.config.max_position_embeddings == 1024
    with pytest.raises(LengthError, match="not a length"):
        ls.extend(model, ls.Yarn(), target_length=256.5)


def test_a_patched_model_can_be_sent_to_another_process(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "coca+yarn", target_length=TARGET)
    assert torch.equal(logits(pickle.loads(pickle.dumps(model)), ids()), logits(model, ids()))


def test_a_model_read_from_a_folder_is_known_as_extended(tiny_model: Maker, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    model = ls.load(tmp_path)
    with ls.extend(model, "yarn", target_length=TARGET) as patch:
        assert model.config.model_type == "longspan_llama"
        assert ls.plan(model, ()).methods == patch.plan.methods
    assert model.config.model_type == "llama"
