"""The evolution: keep the best, make mutants and crossovers of them, measure those, and again.

All randomness comes from the seed and everything else follows from what was measured. So the way to go on after a stop
is to begin anew with the measured values at hand: the same individuals are born, and those known cost nothing.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from longspan.errors import ConfigError
from longspan.search.factors import Candidate, Space

_TRIES = 32
"""How often a child is drawn that is there already, before its place stays empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """How long to search and how; the defaults are the paper's, which halves them beyond 512K tokens."""

    population: int = 64
    """Individuals at the beginning; half as many are kept in each round, a quarter mutants, a quarter crossovers."""
    rounds: int = 40
    budget: int | None = None
    """Forward passes at the target length at most, one for each document and individual; None: as many as it takes."""
    mutation_probability: float = 0.3
    start_tokens: bool = False
    """Search for the number of start tokens too, which no other tool has."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.population < 4:
            raise ConfigError(f"a population of {self.population} is too small to choose from: give at least 4")
        if self.rounds < 0:
            raise ConfigError(f"rounds is {self.rounds}: it must not be negative")
        if not 0 < self.mutation_probability <= 1:
            raise ConfigError(f"mutation_probability is {self.mutation_probability}: it must lie between 0 and 1")

    @property
    def keep(self) -> int:
        """Individuals that have children."""
        return self.population // 2

    @property
    def mutants(self) -> int:
        """Mutants a round; as many crossovers."""
        return self.population // 4

    @property
    def most(self) -> int:
        """Individuals that all rounds together can have."""
        return self.population + self.rounds * 2 * self.mutants

    def limit(self, documents: int, starts: int) -> int:
        """Individuals that the budget pays for, with so many documents.

        Raises:
            ConfigError: not even the starts.
        """
        if self.budget is None:
            return self.most
        if self.budget < documents * starts:
            raise ConfigError(
                f"a budget of {self.budget} forward passes does not reach the {starts} starts on {documents} "
                f"documents: give at least {documents * starts}, or fewer documents"
            )
        return min(self.most, self.budget // documents)


@dataclass(frozen=True, slots=True)
class Individual:
    """A candidate that was measured."""

    candidate: Candidate
    nll: float
    """Mean negative log-likelihood at the target length, nats a token; infinite where the model gave no number."""
    origin: str
    """`pi`, `ntk`, `yarn`, `mutant` or `crossover`."""
    round: int
    """0 for the first population."""

    @property
    def perplexity(self) -> float:
        """Infinite where no float can hold it."""
        return math.exp(self.nll) if self.nll < 700 else math.inf


def evolve(
    space: Space, measure: Callable[[Candidate, str, int], Individual], settings: SearchSettings, limit: int
) -> list[Individual]:
    """Measure at most `limit` different candidates, each once; returns them best first.

    The starts are the first three, so the best is never worse than they are.
    """
    rng = random.Random(settings.seed)
    found: dict[Candidate, Individual] = {}
    born = _first_population(space, settings, rng)
    for number in range(settings.rounds + 1):
        for candidate, origin in born.items():
            if len(found) == limit:
                return _ranked(found)
            found[candidate] = measure(candidate, origin, number)
        born = _children(space, _ranked(found)[: settings.keep], found, settings, rng)
    return _ranked(found)


def _ranked(found: dict[Candidate, Individual]) -> list[Individual]:
    return sorted(found.values(), key=lambda individual: individual.nll)  # of equals the older stands first


def _first_population(space: Space, settings: SearchSettings, rng: random.Random) -> dict[Candidate, str]:
    born: dict[Candidate, str] = {}
    for name, candidate in space.starts().items():
        born.setdefault(candidate, name)
    parents = list(born)
    for place in range(settings.population - len(born)):
        make = functools.partial(space.mutant, parents[place % len(parents)], settings.mutation_probability, rng)
        _add(born, {}, "mutant", make)
    return born


def _children(
    space: Space,
    parents: list[Individual],
    found: dict[Candidate, Individual],
    settings: SearchSettings,
    rng: random.Random,
) -> dict[Candidate, str]:
    born: dict[Candidate, str] = {}

    def mutant() -> Candidate:
        return space.mutant(rng.choice(parents).candidate, settings.mutation_probability, rng)

    def crossover() -> Candidate:
        first, second = rng.sample(parents, 2) if len(parents) > 1 else parents * 2
        return space.crossover(first.candidate, second.candidate, rng)

    for _ in range(settings.mutants):
        _add(born, found, "mutant", mutant)
    for _ in range(settings.mutants):
        _add(born, found, "crossover", crossover)
    return born


def _add(
    born: dict[Candidate, str], found: dict[Candidate, Individual], origin: str, make: Callable[[], Candidate]
) -> None:
    """Add a child that is not there yet; in a small space there may be none."""
    for _ in range(_TRIES):
        child = make()
        if child not in born and child not in found:
            born[child] = origin
            return
