"""The start of CoCA's t that comes closest to the scores a layer had: least squares, head by head.

Exact CoCA's score is linear in t, and t before its gate is linear in the layer's input x, so the map `W_t` of a key
head solves a least-squares problem: SUM_j (W_t x_n)_j |q_mj|^2 cos((m-n) omega_j) / sqrt(D) against the score that
query m and key n had. Rows are centred, since softmax does not see a constant; each score counts by the attention it
got, half of the weight being spread evenly so that what got none stays away. All query heads of a group fit the one t
that they share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

QUERIES = 64
"""Rows of scores taken from each window: neighbours say nearly the same, and windows are cheap."""
EVEN = 0.5
"""Share of a row's weight that is spread evenly over what the query sees."""
RIDGE = 1e-4
"""Penalty on the map, as a share of the mean curvature of the error."""
STEPS = 50
"""Evaluations of the error at most, for each of the two stages."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What one layer did in one window, at some of its queries (M of T tokens)."""

    inputs: Float64[Tensor, "T X"]
    """What the key projection reads, a 1 behind it if it has a bias."""
    features: Float64[Tensor, "H M W"]
    """Queries as exact CoCA rotates them, times the softmax scale."""
    targets: Float64[Tensor, "H M T"]
    """Scaled scores that shall come out."""
    seen: Bool[Tensor, "M T"]

    @property
    def attention(self) -> Float64[Tensor, "H M T"]:
        """The share of its attention that a query gave to each key."""
        return self.targets.masked_fill(~self.seen, -torch.inf).softmax(-1)

    @property
    def weights(self) -> Float64[Tensor, "H M T"]:
        """What each score counts; every row adds up to 1."""
        even = self.seen / self.seen.sum(-1, keepdim=True)
        return (1 - EVEN) * self.attention + EVEN * even


def fit_keys(
    scores: Sequence[Scores],
    key_heads: int,
    pairs: int,
    rotate: Callable[[Tensor], Tensor],
    gate: Callable[[Tensor], Tensor],
) -> Float64[Tensor, "G F X"]:
    """The maps from the layer's input to t: first as if there were no gate, from there on with it, then the right size.

    Args:
        rotate: R at positions 0 .. T-1, `1 G T F` -> `1 G T W`.
        gate: what t goes through.
    """
    inputs = torch.cat([window.inputs for window in scores])
    # in coordinates in which the inputs are uncorrelated the problem is well conditioned
    second = inputs.mT @ inputs / len(inputs)
    second += 1e-6 * second.diagonal().mean() * torch.eye(len(second), dtype=second.dtype, device=second.device)
    whiten = torch.linalg.inv(torch.linalg.cholesky(second)).mT
    problem = [(window, window.weights) for window in scores]
    whitened = inputs.new_zeros(key_heads, pairs, inputs.shape[1])
    for gating in (lambda t: t, gate):
        error = functools.partial(_error, problem=problem, rotate=rotate, gate=gating)
        whitened = _minimise(whitened, lambda found, error=error: error(found @ whiten.mT))  # type: ignore[misc]
    return _sized(whitened @ whiten.mT, scores, rotate, gate)


def fitted_scores(
    maps: Float64[Tensor, "G F X"],
    window: Scores,
    rotate: Callable[[Tensor], Tensor],
    gate: Callable[[Tensor], Tensor],
) -> Float64[Tensor, "H M T"]:
    """The scaled scores that these maps give in a window."""
    t = gate(torch.einsum("gfx,tx->gtf", maps, window.inputs))
    keys = rotate(t[None])[0].repeat_interleave(len(window.features) // len(maps), dim=0)
    return window.features @ keys.mT


def _centred(scores: Tensor, weights: Tensor) -> Tensor:
    return scores - (weights * scores).sum(-1, keepdim=True)


def _error(
    maps: Tensor,
    problem: Sequence[tuple[Scores, Tensor]],
    rotate: Callable[[Tensor], Tensor],
    gate: Callable[[Tensor], Tensor],
) -> Tensor:
    """Weighted mean square of what is left of the scores after centring, summed over heads."""
    total = maps.new_zeros(())
    for window, weights in problem:
        left = _centred(fitted_scores(maps, window, rotate, gate) - window.targets, weights)
        total = total + (weights * left.square()).sum() / weights.shape[1]
    return total / len(problem)


def _sized(
    maps: Tensor, scores: Sequence[Scores], rotate: Callable[[Tensor], Tensor], gate: Callable[[Tensor], Tensor]
) -> Tensor:
    """The maps, those of each key head times the factor that brings attention closest to what it was.

    Least squares leaves scores too flat where it explains them, and noise where it does not; one factor a head settles
    how much of them attention should follow.
    """
    problem = [(window, window.attention) for window in scores]

    def divergence(logarithms: Tensor) -> Tensor:
        total = logarithms.new_zeros(())
        for window, attention in problem:
            found = fitted_scores(maps * logarithms.exp()[:, None, None], window, rotate, gate)
            log_found = found.masked_fill(~window.seen, -torch.inf).log_softmax(-1).masked_fill(~window.seen, 0)
            total = total - (attention * log_found).sum() / len(window.seen)
        return total / len(problem)

    return maps * _minimise(maps.new_zeros(len(maps)), divergence).exp()[:, None, None]


def _minimise(start: Tensor, error: Callable[[Tensor], Tensor]) -> Tensor:
    """The minimum of `error` plus the ridge near `start`, by L-BFGS with a line search."""
    found = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [found],
        max_iter=STEPS,
        history_size=30,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        value = error(found) + RIDGE * found.square().sum()
        value.backward()
        return value

    optimizer.step(evaluate)
    return found.detach()
