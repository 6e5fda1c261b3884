"""Lines are told apart by what both have scored, never by intervals of their own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from longspan.records import Record
from longspan.report.paired import Pairs
from longspan.report.results import Results
from longspan.report.summary import sentences
from longspan.scores import Score

Make = Callable[..., Record]
LENGTH = 1024


def scores(
    model: str, values: list[float], metric: str = "nll", seed: int | None = None, **columns: object
) -> list[Score]:
    task = "perplexity" if metric == "nll" else "passkey"
    shared = {"run": "books", "method": "rope", "model": model, "task": task, "length": LENGTH, "seed": seed, **columns}
    return [
        Score(sample=f"text {place}", values={metric: value}, **shared)  # type: ignore[arg-type]
        for place, value in enumerate(values)
    ]


def results_of(make_record: Make, **values: float) -> Results:
    """Perplexity of arms at one length; the interval says how documents differ."""
    return Results([make_record(model=arm, length=LENGTH, value=v, low=v / 2, high=v * 2) for arm, v in values.items()])


def test_documents_that_differ_far_more_than_the_arms_do_not_hide_the_difference(make_record: Make) -> None:
    hard = np.linspace(2.0, 6.0, 12)
    gap = np.log(1.05) + np.resize([0.005, -0.005], 12)
    results = results_of(make_record, a=40.0, b=42.0)
    pairs = Pairs(results, scores("a", hard.tolist()) + scores("b", (hard + gap).tolist()))
    first, second = results.lines
    found = pairs.difference(second, first, "perplexity", "perplexity", LENGTH)
    assert found is not None
    assert found.value == pytest.approx(0.05, abs=1e-3)
    assert 0.04 < found.low < found.value < found.high < 0.06
    assert (found.unit, found.n, found.tells_apart) == ("document", 12, True)
    told = sentences(results, pairs)[0]
    assert "the next, b, is 5 % higher (4." in told
    assert "paired by document, n = 12)" in told


def test_arms_that_win_on_half_of_the_documents_each_are_not_told_apart(make_record: Make) -> None:
    results = results_of(make_record, a=40.0, b=40.5)
    swing = [0.3 if place % 2 else -0.29 for place in range(12)]
    pairs = Pairs(results, scores("a", [3.0] * 12) + scores("b", [3.0 + step for step in swing]))
    assert "paired by document, b cannot be told from it" in sentences(results, pairs)[0]


def test_longer_documents_count_more(make_record: Make) -> None:
    results = results_of(make_record, a=40.0, b=42.0)
    mine = [scores("a", [1.0])[0], *scores("a", [0.0, 1.0], weight=3.0)[1:]]
    other = [scores("b", [0.0])[0], *scores("b", [0.0, 0.5], weight=3.0)[1:]]
    found = Pairs(results, mine + other).difference(*results.lines, "perplexity", "perplexity", LENGTH)
    assert found is not None
    assert found.value == pytest.approx(math.expm1((1 * 1.0 + 3 * 0.5) / 4))


def test_a_text_that_only_one_has_scored_makes_no_pair(make_record: Make) -> None:
    results = results_of(make_record, a=40.0, b=42.0)
    other = [Score(**{**_columns(score), "sample": f"another {score.sample}"}) for score in scores("b", [2.0] * 5)]
    pairs = Pairs(results, scores("a", [1.0] * 5) + other)
    assert pairs.difference(*results.lines, "perplexity", "perplexity", LENGTH) is None
    assert "whether the next, b (42.00), differs the records do not tell" in sentences(results, pairs)[0]


def _columns(score: Score) -> dict[str, object]:
    return {name: getattr(score, name) for name in Score.__slots__}


def test_models_of_other_seeds_make_no_pair(make_record: Make) -> None:
    results = results_of(make_record, a=40.0, b=42.0)
    pairs = Pairs(results, scores("a", [1.0] * 5, seed=0) + scores("b", [2.0] * 5, seed=1))
    assert pairs.difference(*results.lines, "perplexity", "perplexity", LENGTH) is None


def test_prompts_answered_once_are_judged_by_mcnemar(make_record: Make) -> None:
    accuracy = {"task": "passkey", "metric": "accuracy", "length": LENGTH}
    results = Results([make_record(model=arm, **accuracy, value=v) for arm, v in (("a", 1.0), ("b", 0.5))])
    right = scores("a", [1.0] * 10, "accuracy")
    pairs = Pairs(results, right + scores("b", [1.0] * 5 + [0.0] * 5, "accuracy"))
    found = pairs.difference(*results.lines, "passkey", "accuracy", LENGTH)
    assert found is not None
    assert found.value == 0.5
    # five fair coins that all fall alike: 2 / 2**5, which is not below 0.05 although the bootstrap leaves zero out
    assert found.p_value == pytest.approx(0.0625)
    assert found.low > 0
    assert not found.tells_apart


def test_two_seeds_in_common_are_paired_seed_by_seed(make_record: Make) -> None:
    records = [
        make_record(model=arm, length=LENGTH, seed=seed, value=value)
        for arm, values in (("a", (20.0, 30.0)), ("b", (22.0, 33.0)))
        for seed, value in enumerate(values)
    ]
    results = Results(records)
    found = Pairs(results).difference(*reversed(results.lines), "perplexity", "perplexity", LENGTH)
    assert found is not None
    # the seeds of the two arms overlap (20 to 30, 22 to 33); their differences do not
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (found.unit, found.n, found.tells_apart) == ("seed", 2, True)
