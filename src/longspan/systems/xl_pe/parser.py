"""The reorderer: learned from order classes by passive-aggressive updates, saved as weights by fingerprint.

Source: Nakagawa 2015; google/topdown-btg-preordering, read in code. Where that code takes the worst state of the beam
at an early update, ours takes the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from longspan.errors import DataError
from longspan.systems.xl_pe.alignment import Words
from longspan.systems.xl_pe.bracketing import order_of
from longspan.systems.xl_pe.features import FeatureSpace, Tables, columns, fingerprints, triple_numbers
from longspan.systems.xl_pe.search import DIRECTIONS, Derivation, action_scores, search

BEAM = 20
ITERATIONS = 20
LONGEST = 256
"""Words of a sentence at most: memory grows with their cube, to 0.5 GB here."""


@dataclass(frozen=True, slots=True)
class Reorderer:
    """Puts source words into target order."""

    space: FeatureSpace
    weights: Float64[np.ndarray, "K direction"]
    beam: int = BEAM

    def order(self, words: Words) -> list[int]:
        """Source indices in target order; any number of words up to LONGEST, none included.

        Raises:
            DataError: there are more words.
        """
        if len(words) > LONGEST:
            raise DataError(
                f"a sentence of {len(words)} words is too long to be reordered: split it ({LONGEST} at most)"
            )
        if len(words) < 2:
            return list(range(len(words)))
        return self.order_numbered(self.space.numbers(fingerprints(columns(words))), len(words))

    def order_numbered(self, tables: Tables, length: int) -> list[int]:
        """The same, of at least two words whose features are numbered already."""
        found = search(action_scores(tables, self.weights, length), self.beam)
        return order_of(found.best.actions(), length)

    @classmethod
    def untrained(cls, beam: int = BEAM) -> Reorderer:
        """One without a weight: every order is as good."""
        return cls(FeatureSpace(np.zeros(0, dtype=np.uint64)), np.zeros((1, DIRECTIONS)), beam)


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence to learn from."""

    tables: Tables
    """Its features, numbered."""
    valid: Bool[np.ndarray, "b e direction p"]
    """The actions that keep to its order; some derivation must."""

    @property
    def length(self) -> int:
        """Its words."""
        return len(self.valid)


def train_reorderer(
    space: FeatureSpace,
    examples: Sequence[Example],
    *,
    iterations: int = ITERATIONS,
    beam: int = BEAM,
    seed: int = 0,
    on_iteration: Callable[[int, int], None] | None = None,
) -> tuple[Reorderer, list[int]]:
    """Learn from `examples`, in an order drawn anew for each iteration; stops early when all are right.

    The second value has the errors of each iteration: sentences that were not ordered as the constraint wants.

    Update number u of T changes the averaged weights by (T - u) / T of the change.

    Args:
        on_iteration: called with the number of iterations done and the errors of the last one.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((len(space), DIRECTIONS), dtype=np.float32)
    averaged = np.zeros_like(weights)
    total = iterations * len(examples)
    history: list[int] = []
    for iteration in range(iterations):
        errors = 0
        for place, number in enumerate(rng.permutation(len(examples))):
            example = examples[number]
            found = search(action_scores(example.tables, weights, example.length), beam, example.valid)
            assert found.valid is not None
            if all(np.array_equal(mine, gold) for mine, gold in zip(found.best, found.valid, strict=True)):
                continue
            errors += 1
            share = 1 - (iteration * len(examples) + place) / total
            _update(weights, averaged, example, found.best, found.valid, share)
        history.append(errors)
        if on_iteration is not None:
            on_iteration(iteration + 1, errors)
        if not errors:
            break
    return Reorderer(space, averaged, beam), history


def _update(
    weights: np.ndarray, averaged: np.ndarray, example: Example, found: Derivation, gold: Derivation, share: float
) -> None:
    """One step of PA-I: from the first action that differs on, away from what was found and towards gold."""
    differs = np.any([mine != right for mine, right in zip(found, gold, strict=True)], axis=0)
    start = int(np.argmax(differs))
    wrong, right = (_features(example.tables, derivation.after(start), example.length) for derivation in (found, gold))
    flat, flat_averaged = weights.reshape(-1), averaged.reshape(-1)
    loss = math.sqrt(len(found.b) - start) + float(flat[wrong].sum() - flat[right].sum())
    keys, inverse = np.unique(np.concatenate((right, wrong)), return_inverse=True)
    signs = np.concatenate((np.ones(len(right)), -np.ones(len(wrong))))
    change = np.bincount(inverse, signs, minlength=len(keys))
    step = min(1.0, loss / float(change @ change))
    flat[keys] += step * change
    flat_averaged[keys] += share * step * change


def _features(tables: Tables, actions: Derivation, length: int) -> Int64[np.ndarray, " features"]:
    """Numbers of all features of some actions, among the weights of both directions laid side by side."""
    b, p, e = actions.b, actions.p, actions.e
    places = {"b": b, "p": p, "e": e, "left": p - b, "right": e - p, "parent": actions.parent}
    found = [
        numbers[:, triple_numbers(length, b, p, e)]
        if axes == ("b", "p", "e")
        else numbers[(slice(None), *(places[axis] for axis in axes))]
        for axes, numbers in tables.items()
    ]
    return (np.concatenate(found).astype(np.int64) * DIRECTIONS + actions.direction).ravel()
