"""The space of factors: its starts, and children that never leave it."""

from __future__ import annotations

import random

import pytest

from longspan.equation import Window
from longspan.search import Candidate, Space
from longspan.search.factors import START_TOKENS

SMALL = Window(rotary_dim=16, original_length=256, target_length=1024)
LARGE = Window(rotary_dim=128, base=5e5, original_length=8192, target_length=131072)


def assert_inside(candidate: Candidate, space: Space) -> None:
    factors = candidate.factors
    assert len(factors) == space.window.rotary_dim // 2
    assert list(factors) == sorted(factors)
    assert factors[0] >= 1
    assert factors[-1] <= 1.25 * space.window.factor
    assert candidate.start_tokens in space.start_tokens


def test_starts_are_those_of_the_oracle_table() -> None:
    starts = Space(SMALL).starts()
    assert starts["pi"].factors == (4.0,) * 8
    assert starts["ntk"].factors == pytest.approx(
        [1, 1.21901, 1.48599, 1.81145, 2.20818, 2.69180, 3.28134, 4], abs=5e-6
    )
    assert starts["yarn"].factors == pytest.approx([1, 1.23077, 1.6, 2.28571, 4, 4, 4, 4], abs=5e-6)
    assert {candidate.start_tokens for candidate in starts.values()} == {0}


@pytest.mark.parametrize("window", [SMALL, LARGE, Window(rotary_dim=4, original_length=60, target_length=80)])
def test_children_of_children_stay_ordered_and_in_bounds(window: Window) -> None:
    space, rng = Space(window, START_TOKENS), random.Random(0)
    alive = list(space.starts().values())
    for candidate in alive:
        assert_inside(candidate, space)
    for _ in range(300):
        mutant = space.mutant(rng.choice(alive), 0.3, rng)
        child = space.crossover(rng.choice(alive), mutant, rng)
        assert_inside(mutant, space)
        assert_inside(child, space)
        alive += [mutant, child]
    assert len(set(alive)) > 200


def test_children_lie_on_steps_of_a_hundredth() -> None:
    space, rng = Space(SMALL), random.Random(0)
    for _ in range(50):
        mutant = space.mutant(space.starts()["ntk"], 0.3, rng)
        steps = [factor * 100 for factor in mutant.factors]
        assert [round(step) for step in steps] == pytest.approx(steps, abs=1e-6)


def test_a_child_has_each_factor_from_a_parent() -> None:
    first, second = Candidate((1.0, 1.0, 1.0, 1.0)), Candidate((4.0, 4.0, 4.0, 4.0))
    space, rng = Space(Window(rotary_dim=8, original_length=64, target_length=256)), random.Random(0)
    children = {space.crossover(first, second, rng) for _ in range(100)}
    assert {factor for child in children for factor in child.factors} == {1.0, 4.0}
    assert len(children) == 5


def test_start_tokens_are_searched_only_where_asked_and_fit_the_window() -> None:
    rng = random.Random(0)
    space = Space(SMALL, START_TOKENS)
    assert max(space.start_tokens) == 128
    mutants = [space.mutant(space.starts()["pi"], 0.5, rng) for _ in range(200)]
    assert {mutant.start_tokens for mutant in mutants} == set(space.start_tokens)
    still = Space(SMALL)
    assert {still.mutant(still.starts()["pi"], 0.5, rng).start_tokens for _ in range(50)} == {0}
