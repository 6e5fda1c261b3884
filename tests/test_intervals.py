"""Intervals against published examples and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from longspan.intervals import bootstrap, mcnemar, normal_mean, paired_ratio_difference, share_difference, wilson


def test_wilson_of_no_success_in_100_trials_ends_at_0037() -> None:
    low, high = wilson(0, 100)
    assert low == 0.0
    # with p = 0 the formula is z^2 / (n + z^2) = 3.8415 / 103.8415
    assert high == pytest.approx(0.036994, abs=1e-6)


@pytest.mark.parametrize(("n", "half"), [(10, 0.26), (50, 0.13), (110, 0.09), (220, 0.07)])
def test_wilson_half_widths_at_one_half_are_those_of_the_protocol(n: int, half: float) -> None:
    low, high = wilson(n // 2, n)
    assert (high - low) / 2 == pytest.approx(half, abs=0.005)
    assert low + high == pytest.approx(1.0)


def test_wilson_of_only_successes_mirrors_that_of_none() -> None:
    low, high = wilson(7, 7)
    assert high == 1.0
    assert low == pytest.approx(1 - wilson(0, 7)[1])


@pytest.mark.parametrize(("k", "n"), [(3, 0), (4, 3), (-1, 3)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= k <= n"):
        wilson(k, n)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_the_published_examples(k: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    assert wilson(k, n) == pytest.approx((low, high), abs=6e-5)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, size=400)
    low, high = bootstrap(values, resamples=4000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_bootstrap_weights_documents_by_their_tokens() -> None:
    # both documents have the same mean, so every resample has it too; an unweighted mean of sums would not
    assert bootstrap([10.0, 200.0], [5, 100]) == pytest.approx((2.0, 2.0))


def test_bootstrap_is_decided_by_its_seed() -> None:
    values = [1.0, 4.0, 2.0, 8.0]
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1, resamples=50) != bootstrap(values, seed=2, resamples=50)


def test_one_document_has_no_interval() -> None:
    assert bootstrap([3.0], [2]) == (None, None)
    assert normal_mean([3.0]) == (None, None)


def test_normal_mean_by_hand() -> None:
    # s = 1 and n = 4: mean +- 1.96 / 2
    assert normal_mean([1.0, 1.0 + 3**0.5, 1.0, 1.0 + 3**0.5]) == pytest.approx((0.886, 2.846), abs=1e-3)


def test_pairing_removes_the_spread_between_documents() -> None:
    easy_and_hard = np.array([100.0, 500.0, 900.0, 300.0])
    counts = np.full(4, 100)
    difference = paired_ratio_difference(easy_and_hard + 10, easy_and_hard, counts)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    low, high = bootstrap(easy_and_hard, counts)
    assert high - low > 1


def test_mcnemar_by_hand() -> None:
    # 1 of 6 disagreements for the second arm: 2 * (C(6,0) + C(6,1)) / 2^6 = 14 / 64
    first = [True] * 5 + [False] + [True] * 10
    second = [False] * 5 + [True] + [True] * 10
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second, test.p_value) == (5, 1, 14 / 64)


def test_mcnemar_of_equal_arms_is_one() -> None:
    assert mcnemar([True, False], [True, False]).p_value == 1.0
    assert mcnemar([True, False], [False, True]).p_value == 1.0


def test_mcnemar_refuses_different_trials() -> None:
    with pytest.raises(ValueError, match="same trials"):
        mcnemar([True], [True, False])


def test_the_difference_of_two_shares_is_that_of_newcombes_examples() -> None:
    # Newcombe 1998, table II: 56 of 70 less 48 of 80, and 9 of 10 less 3 of 10, by his method 10
    for first, second, low, high in (((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090)):
        found = share_difference(first, second)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
