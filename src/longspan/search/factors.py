"""What is searched: one factor a pair, non-decreasing, and how many first tokens keep RoPE's own frequencies."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from longspan.equation import Window
from longspan.methods.frequency.ntk import Ntk
from longspan.methods.frequency.pi import Pi
from longspan.methods.frequency.yarn import Yarn

START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
"""The paper's candidates for n0."""

_HIGHEST = 1.25
"""Largest factor, in multiples of target / original."""

_DIGITS = 2
"""Factors are searched in steps of 0.01."""

_STEPS = (0.01, 0.5)
"""How far a mutant's factors move, as a share of themselves: drawn for each mutant between these."""


class Candidate(NamedTuple):
    """One point of the space, by which results are found again."""

    factors: tuple[float, ...]
    start_tokens: int = 0


class Space:
    """Factors from 1 to 1.25 s that do not decrease from pair to pair, and the numbers of start tokens to try.

    Slower pairs are never slowed less than faster ones: the paper's constraint, which PI, NTK and YaRN keep.
    """

    def __init__(self, window: Window, start_tokens: Sequence[int] = (0,)) -> None:
        """`window` has the rotated width that is in force, features included."""
        self.window = window
        self.highest = _HIGHEST * window.factor
        self.start_tokens = tuple(number for number in start_tokens if number < window.original_length)

    def starts(self) -> dict[str, Candidate]:
        """Where the search begins: the factors of PI, NTK and YaRN, by name."""
        found = {}
        for name, method in {"pi": Pi(), "ntk": Ntk(), "yarn": Yarn()}.items():
            factors = (self.window.omega / method.frequency(self.window)).clamp(min=1).tolist()
            found[name] = Candidate(tuple(itertools.accumulate(factors, max)))  # rounding could break the order
        return found

    def mutant(self, parent: Candidate, probability: float, rng: random.Random) -> Candidate:
        """`parent` with other factors, and with this probability another number of start tokens.

        A share by which factors grow or shrink is drawn anew at a pair with this probability and holds for the pairs
        after it. So neighbours move together; the paper moves each by itself, between its neighbours, which hardly
        leaves a start where there are many pairs.
        """
        low, high = (math.log(step) for step in _STEPS)
        step, shift = math.exp(rng.uniform(low, high)), 0.0
        factors = []
        for factor in parent.factors:
            if rng.random() < probability:
                shift = step * rng.gauss(0, 1)
            factors.append(factor * math.exp(shift))
        start = rng.choice(self.start_tokens) if rng.random() < probability else parent.start_tokens
        return self._ordered(factors, start)

    def crossover(self, first: Candidate, second: Candidate, rng: random.Random) -> Candidate:
        """Each factor, and the start tokens, from one of two parents."""
        factors = [rng.choice(pair) for pair in zip(first.factors, second.factors, strict=True)]
        return self._ordered(factors, rng.choice((first.start_tokens, second.start_tokens)))

    def _ordered(self, factors: Sequence[float], start_tokens: int) -> Candidate:
        kept = (min(max(1.0, round(factor, _DIGITS)), self.highest) for factor in factors)
        return Candidate(tuple(sorted(kept)), start_tokens)
