from __future__ import annotations

from collections.abc import Callable

import pytest

from longspan.records import Record
from longspan.report.results import Results
from longspan.report.summary import reach, sentences

Make = Callable[..., Record]


def passkey(make_record: Make, accuracy: dict[int, tuple[float, ...]], **names: object) -> list[Record]:
    found = []
    for length, values in accuracy.items():
        for index, value in enumerate(values):
            depth = index / (len(values) - 1)
            found.append(
                make_record(task="passkey", metric="accuracy", length=length, depth=depth, value=value, **names)
            )
        mean = sum(values) / len(values)
        found.append(make_record(task="passkey", metric="accuracy", length=length, value=mean, **names))
    return found


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        ({256: (1.0, 1.0), 512: (0.5, 0.9), 1024: (0.4, 1.0)}, 512),
        ({256: (1.0, 1.0), 512: (0.4, 1.0), 1024: (1.0, 1.0)}, 256),
        ({256: (0.1, 1.0)}, None),
    ],
)
def test_reach_is_the_last_length_before_the_first_failure_at_any_depth(
    make_record: Make, accuracy: dict[int, tuple[float, ...]], expected: int | None
) -> None:
    results = Results(passkey(make_record, accuracy))
    assert reach(results, results.lines[0]) == expected


def test_the_headline_names_the_best_line_and_how_far_the_next_is_behind(make_record: Make) -> None:
    records = [
        make_record(length=256, value=20.0),
        make_record(length=1024, value=90.0, low=80.0, high=99.0),
        *(make_record(length=1024, method="yarn", value=value, seed=seed) for seed, value in enumerate((29.0, 31.0))),
        *(make_record(length=1024, method="pi", value=value, seed=seed) for seed, value in enumerate((30.5, 32.5))),
    ]
    assert sentences(Results(records)) == [
        "At 256 tokens, the training length, the lowest perplexity is 20.00 by rope.",
        "At 1k tokens, 4 times the training length, the lowest perplexity is 30.00 (29.00–31.00) by rope + yarn; "
        "the next, rope + pi, is 5 % higher (4.8 to 5.2 %, paired by seed, n = 2). "
        "Rope without an extension has 90.00.",
    ]


def test_the_interval_of_a_single_seed_is_not_taken_for_a_spread_between_seeds(make_record: Make) -> None:
    records = [
        make_record(length=256, method="yarn", value=30.0, low=20.0, high=40.0),
        *(make_record(length=256, method="pi", value=value, seed=seed) for seed, value in enumerate((30.5, 32.5))),
    ]
    assert sentences(Results(records)) == [
        "At 256 tokens, the training length, the lowest perplexity is 30.00 (20.00–40.00) by rope + yarn "
        "(one seed; others have more); whether the next, rope + pi (31.50), differs the records do not tell.",
    ]


def test_retrieval_not_learned_inside_the_window_is_said(make_record: Make) -> None:
    told = " ".join(sentences(Results(passkey(make_record, {256: (0.5, 0.7), 512: (0.0, 0.1)}))))
    assert "below 0.95 for rope (0.60)" in told
    told = " ".join(sentences(Results(passkey(make_record, {256: (1.0, 1.0), 512: (0.0, 0.1)}))))
    assert "below" not in told
    assert "256 tokens, with rope" in told
