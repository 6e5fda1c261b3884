"""The evolution by itself, on a landscape whose best place is known."""

from __future__ import annotations

import math

import pytest

from longspan.equation import Window
from longspan.errors import ConfigError
from longspan.search import Candidate, Individual, SearchSettings, Space
from longspan.search.evolution import evolve

SPACE = Space(Window(rotary_dim=16, original_length=256, target_length=1024))
GOAL = (1.0, 1.0, 1.1, 1.3, 2.5, 3.6, 4.4, 4.9)


def far(candidate: Candidate) -> float:
    return sum(math.log(factor / goal) ** 2 for factor, goal in zip(candidate.factors, GOAL, strict=True))


class Landscape:
    """Counts what is measured."""

    def __init__(self) -> None:
        self.measured: list[Individual] = []

    def __call__(self, candidate: Candidate, origin: str, number: int) -> Individual:
        self.measured.append(Individual(candidate, far(candidate), origin, number))
        return self.measured[-1]


def search(**settings: object) -> tuple[list[Individual], list[Individual]]:
    chosen, landscape = SearchSettings(**settings), Landscape()
    ranked = evolve(SPACE, landscape, chosen, chosen.limit(1, 3))
    return ranked, landscape.measured


def test_it_comes_near_a_goal_that_lies_far_from_all_starts() -> None:
    ranked, _ = search()
    starts = [far(candidate) for candidate in SPACE.starts().values()]
    assert ranked[0].nll < min(starts) / 20


def test_the_numbers_are_those_of_the_paper() -> None:
    settings = SearchSettings()
    assert (settings.population, settings.rounds, settings.keep, settings.mutants) == (64, 40, 32, 16)
    assert settings.mutation_probability == 0.3
    assert settings.most == 64 + 40 * 32
    _, measured = search()
    assert [individual.origin for individual in measured[:3]] == ["pi", "ntk", "yarn"]
    for number, born in ((0, 64), (1, 32), (40, 32)):
        assert sum(individual.round == number for individual in measured) == born


def test_nothing_is_measured_twice_and_the_budget_is_kept() -> None:
    for budget in (3, 10, 64, 70, 200):
        ranked, measured = search(budget=budget)
        assert len(ranked) == len(measured) == budget
        assert len({individual.candidate for individual in measured}) == budget
        assert ranked[0].nll == min(individual.nll for individual in measured)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_is_never_worse_than_the_best_start(seed: int) -> None:
    for budget in (3, 20, 90):
        ranked, _ = search(budget=budget, seed=seed, population=8)
        assert ranked[0].nll <= min(far(candidate) for candidate in SPACE.starts().values())


def test_the_seed_decides_everything() -> None:
    one, other = search(seed=1, rounds=5), search(seed=1, rounds=5)
    assert one == other
    assert search(seed=2, rounds=5) != one


def test_a_longer_search_begins_as_the_shorter_one() -> None:
    assert search(rounds=6)[1][: 64 + 3 * 32] == search(rounds=3)[1]


def test_where_the_space_has_few_places_it_ends() -> None:
    space = Space(Window(rotary_dim=4, original_length=100, target_length=101))
    settings, found = SearchSettings(rounds=30), []

    def measure(candidate: Candidate, origin: str, number: int) -> Individual:
        found.append(candidate)
        return Individual(candidate, sum(candidate.factors), origin, number)

    evolve(space, measure, settings, settings.limit(1, 3))
    assert len(set(found)) == len(found) < settings.most


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"population": 3}, "population of 3 is too small"),
        ({"rounds": -1}, "must not be negative"),
        ({"mutation_probability": 0.0}, "between 0 and 1"),
    ],
)
def test_settings_that_make_no_search_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SearchSettings(**settings)


def test_a_budget_below_the_starts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"14 forward passes does not reach the 3 starts on 5 documents: .* 15"):
        SearchSettings(budget=14).limit(5, 3)
    assert SearchSettings(budget=15).limit(5, 3) == 3
    assert SearchSettings(budget=19).limit(5, 3) == 3
    assert SearchSettings(budget=10**9).limit(5, 3) == SearchSettings().most
