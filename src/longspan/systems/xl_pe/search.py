"""The top-down search: spans are split one after another, the best few states are kept.

Source: Nakagawa 2015, Efficient Top-Down BTG Parsing for Machine Translation Preordering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from longspan.systems.xl_pe.bracketing import Action
from longspan.systems.xl_pe.features import PARENTS, Tables, triples

DIRECTIONS = 2


class Scores(NamedTuple):
    """An action scores split[b, e, direction, p] + span[parent, b, e, direction] + at[parent, direction, p]."""

    split: Float64[np.ndarray, "b e direction p"]
    """-inf where b < p < e does not hold."""
    span: Float64[np.ndarray, "parent b e direction"]
    at: Float64[np.ndarray, "parent direction p"]


def action_scores(tables: Tables, weights: Float64[np.ndarray, "K direction"], length: int) -> Scores:
    """Scores of all actions of a sentence of `length` words, whose features are numbered in `tables`."""
    sums = {axes: weights[numbers].sum(axis=0) for axes, numbers in tables.items()}
    where = triples(length)
    split = np.full((length + 1, length + 1, DIRECTIONS, length + 1), -np.inf)
    split[where.b, where.e, :, where.p] = (
        sums["b", "p", "e"]
        + sums["b", "p"][where.b, where.p]
        + sums["p", "e"][where.p, where.e]
        + sums["left", "right"][where.p - where.b, where.e - where.p]
    )
    ends = sums["b", "e"] + sums["b",][:, None] + sums["e",][None, :]
    span = sums["parent", "b", "e"] + sums["parent", "b"][:, :, None] + sums["parent", "e"][:, None, :] + ends
    at = sums["parent", "p"] + sums["p",] + sums["parent",][:, None]
    return Scores(split, span, np.ascontiguousarray(at.transpose(0, 2, 1)))


class Derivation(NamedTuple):
    """Actions from the top down, each column [m]; m = n - 1 for a whole sentence."""

    b: Int64[np.ndarray, " m"]
    p: Int64[np.ndarray, " m"]
    e: Int64[np.ndarray, " m"]
    direction: Int64[np.ndarray, " m"]
    parent: Int64[np.ndarray, " m"]
    """What the span is that each action splits, as `features.PARENTS` says."""

    def actions(self) -> list[Action]:
        """The same as a list."""
        return [Action(*row) for row in zip(*(column.tolist() for column in self[:4]), strict=True)]

    def after(self, place: int) -> Derivation:
        """The actions from number `place` on."""
        return Derivation(*(column[place:] for column in self))


@dataclass(frozen=True, slots=True)
class Found:
    """What a search ends with."""

    best: Derivation
    valid: Derivation | None
    """The best successor that keeps to the constraint; None without one. As long as `best`, and the same if it does."""


class _Beam(NamedTuple):
    """K states, best first. A span waiting on a stack is the number (parent, b, e)."""

    score: Float64[np.ndarray, " K"]
    stack: Int64[np.ndarray, "K places"]
    depth: Int64[np.ndarray, " K"]
    kept: Bool[np.ndarray, " K"]
    """Whether all actions so far keep to the constraint."""


class _Steps:
    """The actions taken, and the state of the step before that each was taken in."""

    def __init__(self) -> None:
        self.origins: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []

    def add(self, origin: np.ndarray, row: np.ndarray) -> None:
        self.origins.append(origin)
        self.rows.append(row)

    def trace(self, state: int, last: np.ndarray | None = None) -> Derivation:
        """The derivation of a state; with `last`, that of a state of the step before, and then this action."""
        found = [] if last is None else [last]
        for step in range(len(self.rows) - 1 - len(found), -1, -1):
            found.append(self.rows[step][:, state])
            origin = self.origins[step]
            state = int(origin[state])
        return Derivation(*np.stack(found[::-1], axis=1))


def search(scores: Scores, beam: int, valid: Bool[np.ndarray, "b e direction p"] | None = None) -> Found:
    """The best derivation that a beam of `beam` states finds, for at least two words.

    With a constraint, the search stops as soon as no state that keeps to it is left (early update).
    """
    size = scores.split.shape[0]
    length = size - 1
    states = _Beam(np.zeros(1), np.zeros((1, size), dtype=np.int64), np.ones(1, dtype=np.int64), np.ones(1, dtype=bool))
    states.stack[0, 0] = length  # parent 0, b 0, e n
    steps = _Steps()
    oracle = None
    for _ in range(length - 1):
        rows = np.arange(len(states.score))
        parent, b, e = _unpack(states.stack[rows, states.depth - 1], size)
        totals = scores.split[b, e] + scores.span[parent, b, e][:, :, None] + scores.at[parent]
        totals += states.score[:, None, None]
        flat = totals.ravel()
        chosen = np.argpartition(-flat, beam)[:beam] if len(flat) > beam else np.arange(len(flat))
        chosen = chosen[flat[chosen] > -np.inf]
        chosen = chosen[np.argsort(-flat[chosen], kind="stable")]
        keeps = np.ones(len(chosen), dtype=bool)
        if valid is not None:
            allowed = np.where(valid[b, e] & states.kept[:, None, None], totals, -np.inf).ravel()
            keeps = allowed[chosen] > -np.inf
            top = int(chosen[0]) if keeps[0] else int(np.argmax(allowed))
            origin, direction, p = np.unravel_index(top, totals.shape)
            oracle = int(origin), np.array([b[origin], p, e[origin], direction, parent[origin]])
        origin, direction, p = np.unravel_index(chosen, totals.shape)
        row = np.stack((b[origin], p, e[origin], direction, parent[origin]))
        steps.add(origin, row)
        states = _advance(states, origin, row, flat[chosen], keeps, size)
        if not keeps.any():
            break
    return Found(steps.trace(0), None if oracle is None else steps.trace(*oracle))


def _unpack(span: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rest, e = np.divmod(span, size)
    parent, b = np.divmod(rest, size)
    return parent, b, e


def _advance(
    states: _Beam, origin: np.ndarray, row: np.ndarray, score: np.ndarray, keeps: np.ndarray, size: int
) -> _Beam:
    """The states after the actions `row`, each taken in the state `origin`: the right half waits on top of the left."""
    b, p, e, direction, _ = row
    stack, depth = states.stack[origin], states.depth[origin] - 1
    rows = np.arange(len(origin))
    for side, first, last in ((0, b, p), (1, p, e)):
        # a half of one word is written as well, and overwritten by what comes next
        stack[rows, depth] = ((1 + DIRECTIONS * direction + side) * size + first) * size + last
        depth = depth + (last - first > 1)
    return _Beam(score, stack, depth, keeps)


assert PARENTS == 1 + 2 * DIRECTIONS
