"""Frequencies of a plan against wavelengths worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from longspan.planner.frequencies import pairs, sample, touched
from longspan.surgery import plan

Make = Callable[[str], PreTrainedModel]


def test_wavelengths_of_a_head_of_eight_at_base_ten_thousand(tiny_model: Make) -> None:
    found = pairs(plan(tiny_model("llama"), "pi", target_length=256))
    assert [pair.before for pair in found] == pytest.approx([2 * math.pi * 10**power for power in range(4)])
    assert [pair.after for pair in found] == pytest.approx([8 * math.pi * 10**power for power in range(4)])
    assert [pair.turns for pair in found] == pytest.approx([64 / (2 * math.pi * 10**power) for power in range(4)])
    assert touched(found) == (0, 1)


def test_ntk_leaves_the_fastest_pair_and_slows_the_last_by_the_factor(tiny_model: Make) -> None:
    found = pairs(plan(tiny_model("llama"), "ntk", target_length=512))
    assert [pair.slowed for pair in found] == pytest.approx([1, 2, 4, 8])  # 8^(2j / (R - 2))
    assert touched(found) == (0.25, 0.25)


def test_frequencies_that_follow_the_length_are_those_of_the_target(tiny_model: Make) -> None:
    found = pairs(plan(tiny_model("llama"), "dynamic_ntk(factor=1)", target_length=512))
    assert [pair.slowed for pair in found] == pytest.approx([1, 2, 4, 8])


def test_pairs_that_do_not_turn_are_infinitely_slow(tiny_model: Make) -> None:
    found = pairs(plan(tiny_model("llama"), "alibi", target_length=128))
    assert all(math.isinf(pair.after) for pair in found)
    assert touched(found) == (0, 1)


def test_twice_the_frequencies_are_all_there(tiny_model: Make) -> None:
    found = pairs(plan(tiny_model("llama"), "pope+pi", target_length=128))
    assert [pair.slowed for pair in found] == pytest.approx([2] * 8)


def test_a_sample_has_both_ends() -> None:
    assert sample(list(range(64))) == [0, 8, 16, 24, 32, 39, 47, 55, 63]  # type: ignore[arg-type]
    assert sample([1, 2, 3]) == [1, 2, 3]  # type: ignore[arg-type]
