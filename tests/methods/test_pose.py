"""PoSE's law: every draw of a small case, coverage of distances, and what holds for any settings."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.equation import Draw, Window
from longspan.errors import LengthError, MethodError
from longspan.methods.position.pose import PoSE

DRAWS = 3000


def window(target: int) -> Window:
    return Window(rotary_dim=8, original_length=1, target_length=target)


def draw(method: PoSE, length: int, target: int, seed: int, document: int | None = None) -> Draw:
    return method.draw(length, window(target), np.random.default_rng(seed), document=document)


def many(method: PoSE, length: int, target: int, count: int, document: int | None = None) -> list[Draw]:
    rng = np.random.default_rng(0)
    return [method.draw(length, window(target), rng, document=document) for _ in range(count)]


def by_hand(cuts: range) -> Counter[tuple[int, ...]]:
    """All equally likely windows of 4 tokens within 8: a cut and a skip of 0 to 4."""
    return Counter(
        tuple(place + (skip if place >= cut else 0) for place in range(4)) for cut in cuts for skip in range(5)
    )


@pytest.mark.parametrize(("lengths", "cuts", "distinct"), [("paper", range(1, 4), 13), ("code", range(1, 3), 9)])
def test_windows_of_four_within_eight_are_those_counted_by_hand(lengths: str, cuts: range, distinct: int) -> None:
    expected = by_hand(cuts)
    assert len(expected) == distinct
    found = Counter(tuple(one.positions.tolist()) for one in many(PoSE(lengths=lengths), 4, 8, DRAWS))
    assert found.keys() == expected.keys()
    total = expected.total()
    for positions, count in expected.items():
        share = count / total
        assert found[positions] / DRAWS == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / DRAWS))


def test_coverage_of_windows_of_four_within_eight_by_hand() -> None:
    windows = list(by_hand(range(1, 4)).elements())
    exact = [Fraction(sum(distance in gaps(one) for one in windows), len(windows)) for distance in range(1, 8)]
    assert exact == [1, Fraction(4, 5), Fraction(3, 5), Fraction(3, 5), Fraction(3, 5), Fraction(2, 5), Fraction(1, 5)]


def gaps(positions: tuple[int, ...]) -> set[int]:
    return {late - early for early, late in itertools.combinations(positions, 2)}


COVERAGE = {
    "N=2": (PoSE(), [0.143, 0.143, 0.143, 0.143, 0.143, 0.071, 0.018]),
    "N=2, code": (PoSE(lengths="code"), [0.143, 0.143, 0.143, 0.143, 0.143, 0.071, 0.018]),
    "N=3, figure 6": (PoSE(chunks=3, lengths="sticks"), [0.27, 0.22, 0.22, 0.28, 0.34, 0.25, 0.09]),
    "floating": (PoSE(floating=True), [0.43, 0.22, 0.10, 0.03, 0.009, 0.003, 0.000]),
}
FAR = (2049, 4096, 8192, 12288, 14336, 15360, 16128)


@pytest.mark.parametrize("name", COVERAGE)
def test_coverage_from_2048_to_16384_is_that_of_the_papers_law(name: str) -> None:
    method, expected = COVERAGE[name]
    found = np.mean([covered(one.positions, FAR) for one in many(method, 2048, 16384, 800)], axis=0)
    for share, figure in zip(found, expected, strict=True):
        # the figures are rounded to two or three digits
        assert share == pytest.approx(figure, abs=0.006 + 4 * math.sqrt(max(figure, 1e-3) / 800))


def covered(positions: np.ndarray, distances: tuple[int, ...]) -> list[bool]:
    there = np.zeros(positions[-1] + 1 + max(distances), dtype=bool)
    there[positions] = True
    return [bool(there[positions + distance].any()) for distance in distances]


def test_coverage_follows_the_formula_within_sampling_error() -> None:
    length, target = 16, 64
    far = tuple(range(length, target))
    found = np.mean([covered(one.positions, far) for one in many(PoSE(), length, target, DRAWS)], axis=0)
    for distance, covering in zip(far, found, strict=True):
        share = min(length - 1, target - distance) / (target - length + 1)
        assert covering == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / DRAWS))


def test_the_skip_is_uniform_and_both_ends_of_every_range_occur() -> None:
    draws = many(PoSE(), 16, 64, DRAWS)
    skips = Counter(int(one.positions[-1]) - 15 for one in draws)
    assert set(skips) == set(range(49))
    chi_square = sum((skips[skip] - DRAWS / 49) ** 2 / (DRAWS / 49) for skip in range(49))
    assert chi_square < 48 + 4 * math.sqrt(2 * 48)
    firsts = {int(np.argmax(np.diff(one.positions) > 1)) + 1 for one in draws if one.positions[-1] > 15}
    assert firsts == set(range(1, 16))
    assert max(one.positions[-1] for one in draws) == 63


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(1, 40),
    apart=st.integers(0, 200),
    more=st.integers(0, 100),
    chunks=st.integers(1, 8),
    content=st.sampled_from(["uniform", "contiguous", "true"]),
    floating=st.booleans(),
    mask_seam=st.booleans(),
    seed=st.integers(0, 2**32),
)
@pytest.mark.filterwarnings("ignore:.*chunks of one token")
def test_what_holds_for_any_settings(
    length: int, apart: int, more: int, chunks: int, content: str, floating: bool, mask_seam: bool, seed: int
) -> None:
    options = {"floating": floating, "mask_seam": mask_seam} if chunks > 1 else {}
    method = PoSE(chunks=chunks, content=content, **options)
    target, document = length + apart, length + more
    found = draw(method, length, target, seed, document)
    positions, tokens = found.positions, found.tokens
    assert positions.dtype == tokens.dtype == np.int64
    assert len(positions) == len(tokens) == length
    assert (floating and chunks > 1) or positions[0] == 0
    assert (np.diff(positions) > 0).all()
    assert positions[-1] <= target - 1
    assert (np.diff(positions) != 1).sum() <= chunks - 1
    assert tokens[0] >= 0
    assert (np.diff(tokens) > 0).all()
    assert tokens[-1] < document
    if chunks == 1 or apart == 0:
        assert positions.tolist() == tokens.tolist() == list(range(length))
    if content == "contiguous":
        assert tokens.tolist() == list(range(length))
    if content == "true":
        assert tokens.tolist() == positions.tolist()
    torn = set((np.flatnonzero((np.diff(positions) != 1) | (np.diff(tokens) != 1)) + 1).tolist())
    assert set(found.unlearned.tolist()) == (torn if mask_seam else set())
    again = draw(method, length, target, seed, document)
    assert all(np.array_equal(one, two) for one, two in zip(found, again, strict=True))


def test_given_tokens_stay_where_they_are_and_are_moved_apart_whatever_the_content() -> None:
    for content in ("uniform", "contiguous", "true"):
        found = draw(PoSE(content=content), 16, 64, seed=1)
        assert found.tokens.tolist() == list(range(16))
        assert found.positions[-1] > 15


def test_more_chunks_than_tokens_are_one_token_each_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="3 chunks of one token"):
        found = draw(PoSE(chunks=9), 3, 1000, seed=0)
    assert len(set(np.diff(found.positions).tolist())) == 2


def test_cuts_of_three_chunks_are_all_alike_by_default_and_late_by_the_papers_figure() -> None:
    def first_lengths(method: PoSE) -> np.ndarray:
        steps = [np.flatnonzero(np.diff(one.positions) > 1) for one in many(method, 20, 10_000, 3000)]
        return np.array([step[0] + 1 for step in steps if len(step) == 2])

    # lengths of three parts that are all alike have mean 20/3; uniform in 1..18 has mean 9.5
    assert first_lengths(PoSE(chunks=3)).mean() == pytest.approx(20 / 3, abs=0.4)
    assert first_lengths(PoSE(chunks=3, lengths="sticks")).mean() == pytest.approx(9.5, abs=0.4)


@pytest.mark.parametrize(("length", "says"), [(0, "has no token"), (9, "within target_length 8")])
def test_a_window_that_cannot_be_placed_is_refused(length: int, says: str) -> None:
    with pytest.raises(LengthError, match=says):
        draw(PoSE(), length, 8, seed=0)


def test_what_a_window_is_chosen_from() -> None:
    assert PoSE().reach(16, window(64)) == 64
    assert PoSE(source=40).reach(16, window(64)) == 40
    assert PoSE(source="document").reach(16, window(64)) is None
    assert PoSE(chunks=1).reach(16, window(64)) == PoSE(content="contiguous").reach(16, window(64)) == 16


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"chunks": 0}, "at least 1"),
        ({"chunks": 3, "lengths": "code"}, "for 2 chunks"),
        ({"chunks": 1, "floating": True}, "no effect with one chunk"),
        ({"content": "contiguous", "source": 99}, "source has no effect"),
        ({"content": "shuffled"}, "'uniform' or 'contiguous' or 'true'"),
    ],
)
def test_settings_without_sense_or_effect_are_refused(options: dict, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        PoSE(**options)
