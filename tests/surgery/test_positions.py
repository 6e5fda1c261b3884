"""Positions given in training: they reach the rotation, nothing reads them as borders, and evaluation ignores them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import longspan as ls
from conftest import make_model
from longspan.equation import fill_slots
from longspan.errors import MethodError
from longspan.registry import format_methods, parse_methods
from longspan.surgery import current_methods, placed
from surgery_methods import TARGET, ids, logits
from tolerances import LOGITS, logit_distance

Maker = Callable[[str], PreTrainedModel]
FAMILIES = ("llama", "gpt_neox", "gptj", "mistral")
SKIP = torch.cat((torch.arange(50), torch.arange(50) + 151))[None].expand(2, -1)
"""Two chunks of 50 tokens for a target of 256: a PoSE window at one of its ends."""


def trained(model: PreTrainedModel, positions: torch.Tensor, step: int = 0) -> torch.Tensor:
    """Logits as training has them."""
    model.train()
    with placed(model, positions, step):
        found = logits(model, ids())
    model.eval()
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("methods", ["pi", "coca+yarn", "alibi", "log_n"])
def test_training_equals_a_masked_forward_at_the_same_positions(family: str, methods: str) -> None:
    model, other = make_model(family), make_model(family)
    ls.extend(model, f"{methods}+pose", target_length=TARGET)
    ls.extend(other, methods, target_length=TARGET)
    # a mask of ones keeps transformers from reading the skip as the border of a document
    expected = logits(other, ids(), position_ids=SKIP, attention_mask=torch.ones(2, 100, dtype=torch.long))
    assert torch.equal(trained(model, SKIP), expected)


def test_the_same_positions_as_position_ids_would_cut_attention(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "pi+pose", target_length=TARGET)
    cut = logits(model, ids(), position_ids=SKIP)
    assert logit_distance(trained(model, SKIP), cut) > 0.01


@pytest.mark.parametrize("methods", ["pi+pose(chunks=3)", "coca+yarn+random_positions", "ntk+skip_align", "pose"])
def test_in_evaluation_the_model_is_that_without_the_position_method(methods: str, tiny_model: Maker) -> None:
    model, other = tiny_model("llama"), tiny_model("llama")
    ls.extend(model, methods, target_length=TARGET)
    rest = [method for method in parse_methods(methods) if method.slots() != ("position",)]
    ls.extend(other, rest, target_length=TARGET)
    expected = logits(other, ids())
    assert torch.equal(logits(model, ids()), expected)
    with placed(model, SKIP):
        assert torch.equal(logits(model, ids()), expected)
    assert format_methods(current_methods(model)) == methods


def test_in_training_mode_without_positions_it_is_an_error_and_not_plain_training(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "pi+pose", target_length=TARGET)
    model.train()
    with pytest.raises(MethodError, match="none came: train with"):
        logits(model, ids())


def test_a_later_token_moves_no_earlier_logit_even_where_positions_turn_back(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "crd_ntk", target_length=TARGET)
    model.train()
    wrapped = (torch.arange(100) + 70)[None] % 128
    other = ids()
    other[:, 60] = (other[:, 60] + 1) % 128
    with placed(model, wrapped):
        one, two = logits(model, ids()), logits(model, other)
    assert torch.equal(one[:, :60], two[:, :60])
    assert not torch.equal(one[:, 60:], two[:, 60:])


def test_an_offset_shared_by_all_tokens_changes_nothing_and_a_wrap_does(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "crd_ntk", target_length=TARGET)
    plain = torch.arange(100)[None]
    here = trained(model, plain)
    assert logit_distance(trained(model, plain + 3_000_000), here) < LOGITS
    assert logit_distance(trained(model, (plain + 70) % 128), here) > 0.01


def test_crd_grows_with_the_step_in_training_and_never_in_evaluation(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "coca+crd_ntk(stage_steps=10)", target_length=TARGET)
    plain, resting = torch.arange(100)[None], logits(model, ids())
    early, same, late = (trained(model, plain, step) for step in (0, 9, 10))
    assert torch.equal(early, same)
    assert logit_distance(late, early) > 1e-3
    assert torch.equal(logits(model, ids()), resting)


def test_checkpointing_recomputes_layers_at_the_same_positions_and_stage() -> None:
    gradients = []
    for checkpointed in (False, True):
        model = make_model("gptj", attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)  # its layers make the rotation
        ls.extend(model, "crd_ntk(stage_steps=10)", target_length=TARGET)
        model.train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with placed(model, (torch.arange(100) + 70)[None] % 128, step=25):
            model(ids(), labels=ids(), use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def test_frequencies_that_follow_the_length_stand_at_the_target_in_training(tiny_model: Maker) -> None:
    model, other = tiny_model("llama"), tiny_model("llama")
    ls.extend(model, "dynamic_ntk+pose", target_length=TARGET)
    ls.extend(other, "dynamic_ntk(static_for='target')", target_length=TARGET)
    mask = torch.ones(2, 100, dtype=torch.long)
    expected = logits(other, ids(), position_ids=SKIP, attention_mask=mask)
    assert logit_distance(trained(model, SKIP), expected) < LOGITS


def test_the_next_training_brings_positions_of_its_own_and_keeps_the_frequencies(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "pi+pose", target_length=TARGET)
    patch = ls.extend(model, "skip_align", target_length=TARGET)
    assert format_methods(current_methods(model)) == "pi+skip_align"
    patch.undo()
    assert format_methods(current_methods(model)) == "pi+pose"
    with pytest.raises(MethodError, match="already extended from 64 to 256 tokens"):
        ls.extend(model, "crd_ntk", target_length=TARGET)


def test_two_position_methods_at_once_are_refused() -> None:
    with pytest.raises(MethodError, match="PoSE and RandomPositions both fill the slot 'position'"):
        fill_slots(parse_methods("pose+random_positions"))


def test_the_plan_says_that_it_acts_in_training_only(tiny_model: Maker) -> None:
    assert "positions <- PoSE (in training only)" in str(ls.plan(tiny_model("llama"), "pi+pose", target_length=TARGET))


def test_a_saved_model_keeps_the_method_and_is_plain_when_loaded(tmp_path: object, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    ls.extend(model, "pi+pose(chunks=3)", target_length=TARGET)
    model.save_pretrained(tmp_path)
    loaded = ls.load(tmp_path)
    assert format_methods(current_methods(loaded)) == "pi+pose(chunks=3)"
    assert torch.equal(logits(loaded, ids()), logits(model, ids()))


def test_interpolated_scores_at_p_are_those_of_rope_at_p_over_s(tiny_model: Maker) -> None:
    model, other = tiny_model("llama"), tiny_model("llama")
    ls.extend(model, "pi+pose", target_length=TARGET)  # s = 4
    ls.extend(other, "pose", target_length=TARGET)
    positions = 4 * SKIP
    assert logit_distance(trained(model, positions), trained(other, positions // 4)) < LOGITS


def test_positions_of_numpy_draws_fit(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    plan = ls.extend(model, "pi+pose", target_length=TARGET).plan
    assert plan.slots.position is not None
    drawn = plan.slots.position.draw(100, plan.window, np.random.default_rng(0))
    assert trained(model, torch.from_numpy(drawn.positions)[None].expand(2, -1)).isfinite().all()
