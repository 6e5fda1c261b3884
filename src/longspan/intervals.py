"""Uncertainty of measured numbers: Wilson, bootstrap over documents, paired tests. Needs numpy only.

All intervals are 95 % and two-sided unless `level` says otherwise; all randomness comes from `seed`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

Z_95 = NormalDist().inv_cdf(0.975)
"""Standard normal quantile that leaves 2.5 % above it: 1.95996."""

_BLOCK = 1 << 22  # index entries drawn at once: keeps a bootstrap over many trials at about 32 MB


def wilson(k: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion, `k` successes of `n` trials: 0 of 100 gives (0, 0.037).

    Where each trial gives a share between 0 and 1, `k` is their sum; such shares vary at most as much as successes with
    the same mean, so the interval is then wider than it need be, never too narrow, and keeps a width at 0 and 1.

    Source: Wilson 1927, equation of the score interval without continuity correction.

    Raises:
        ValueError: n is not positive, or k is not between 0 and n.
    """
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"wilson needs 0 <= k <= n and n > 0, got k={k}, n={n}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = k / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # at the ends the bound is 0 or 1 exactly; the formula leaves a rounding error there
    return (0.0 if k == 0 else middle - half, 1.0 if k == n else middle + half)


def bootstrap(
    sums: ArrayLike, counts: ArrayLike | None = None, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float] | tuple[None, None]:
    """Percentile interval of sum(sums) / sum(counts) when whole units (documents, trials) are drawn anew.

    Args:
        sums: one number a unit, shape [units]; with `counts` absent this is the interval of their mean.
        counts: weight of each unit (scored tokens of a document), shape [units].

    Returns:
        (low, high); (None, None) for a single unit, which says nothing about the spread between units.

    Raises:
        ValueError: no unit, or shapes that differ.
    """
    values = np.asarray(sums, dtype=np.float64)
    weights = np.ones_like(values) if counts is None else np.asarray(counts, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or values.shape != weights.shape:
        raise ValueError(f"bootstrap needs equal non-empty 1-D arrays, got shapes {values.shape} and {weights.shape}")
    if values.size == 1:
        return None, None
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // values.size)
    ratios = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(values.size, size=(min(rows, resamples - start), values.size))
        ratios.append(values[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def normal_mean(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """Interval mean +- 1.96 s / sqrt(n) of a mean of trials; (None, None) for a single trial."""
    if len(values) < 2:
        return None, None
    array = np.asarray(values, dtype=np.float64)
    half = Z_95 * float(array.std(ddof=1)) / math.sqrt(len(array))
    return float(array.mean()) - half, float(array.mean()) + half


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference, first minus second, with its 95 % interval (None if there is one pair only)."""

    value: float
    low: float | None
    high: float | None


def share_difference(first: tuple[float, int], second: tuple[float, int]) -> Difference:
    """Difference of two proportions of separate trials, each as successes and trials; shares as in `wilson`.

    Source: Newcombe 1998, method 10 (both Wilson intervals, added as the sides of a right angle).

    Raises:
        ValueError: as `wilson`.
    """
    (low_a, high_a), (low_b, high_b) = wilson(*first), wilson(*second)
    a, b = first[0] / first[1], second[0] / second[1]
    return Difference(a - b, a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b))


def paired_ratio_difference(
    first: ArrayLike, second: ArrayLike, counts: ArrayLike, *, resamples: int = 2000, seed: int = 0
) -> Difference:
    """(sum(first) - sum(second)) / sum(counts), bootstrapped over units that both arms share.

    Raises:
        ValueError: shapes differ.
    """
    delta = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    weights = np.asarray(counts, dtype=np.float64)
    low, high = bootstrap(delta, weights, resamples=resamples, seed=seed)
    return Difference(float(delta.sum() / weights.sum()), low, high)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two arms on the same trials: how often only one of them was right, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Exact McNemar test: under equality the trials on which the arms disagree are fair coin tosses.

    Raises:
        ValueError: the arms do not have the same number of trials.
    """
    if len(first) != len(second):
        raise ValueError(f"mcnemar needs the same trials in both arms, got {len(first)} and {len(second)}")
    only_first = sum(1 for a, b in zip(first, second, strict=True) if a and not b)
    only_second = sum(1 for a, b in zip(first, second, strict=True) if b and not a)
    tosses = only_first + only_second
    tail = sum(math.comb(tosses, i) for i in range(min(only_first, only_second) + 1))
    # whole numbers up to the last division: exact, and no overflow for many trials
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**tosses))
