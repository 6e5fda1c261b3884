"""SkipAlign: which boundaries skip, by which law, and how far."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.equation import Window
from longspan.errors import LengthError, MethodError
from longspan.methods.position.pose import PoSE
from longspan.methods.position.skip_align import SkipAlign

LAWS = ("pose", "sorted", "budget")


def window(target: int) -> Window:
    return Window(rotary_dim=8, original_length=1, target_length=target)


def opened(turns: np.ndarray) -> np.ndarray:
    return np.array([place for place in range(1, len(turns)) if turns[place] != turns[place - 1]], dtype=int)


@settings(max_examples=150, deadline=None)
@given(
    blocks=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    apart=st.integers(0, 300),
    strategy=st.sampled_from(["all", "inner", "outer"]),
    law=st.sampled_from(LAWS),
    p_skip=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_what_holds_for_any_settings(
    blocks: list[int], apart: int, strategy: str, law: str, p_skip: float, seed: int
) -> None:
    turns = np.repeat(np.arange(len(blocks)), blocks)
    method = SkipAlign(strategy=strategy, law=law, p_skip=p_skip)
    found = method.draw(len(turns), window(len(turns) + apart), np.random.default_rng(seed), turns=turns)
    skips = np.diff(found.positions) - 1
    assert found.positions.dtype == np.int64
    assert found.positions[0] == 0
    assert (skips >= 0).all()
    assert skips.sum() <= apart
    assert found.tokens.tolist() == list(range(len(turns)))
    parity = {"all": (0, 1), "inner": (1,), "outer": (0,)}[strategy]
    allowed = {int(place) for place in opened(turns) if turns[place] % 2 in parity}
    assert set((np.flatnonzero(skips) + 1).tolist()) <= allowed
    if p_skip == 0 or not allowed:
        assert found.positions.tolist() == list(range(len(turns)))


def test_inner_skips_before_a_response_and_outer_before_an_instruction() -> None:
    turns = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    seen: dict[str, set[int]] = {"inner": set(), "outer": set(), "all": set()}
    rng = np.random.default_rng(0)
    for strategy, places in seen.items():
        for _ in range(200):
            found = SkipAlign(strategy=strategy, p_skip=1.0).draw(8, window(64), rng, turns=turns)
            places |= set((np.flatnonzero(np.diff(found.positions) > 1) + 1).tolist())
    assert seen == {"inner": {2, 6}, "outer": {5}, "all": {2, 5, 6}}


def test_one_turn_is_left_alone_by_outer_and_all_is_inner() -> None:
    turns = np.array([0, 0, 0, 1, 1])
    draws = {
        strategy: SkipAlign(strategy=strategy, p_skip=1.0).draw(5, window(50), np.random.default_rng(3), turns=turns)
        for strategy in ("all", "inner", "outer")
    }
    assert draws["outer"].positions.tolist() == [0, 1, 2, 3, 4]
    assert draws["all"].positions.tolist() == draws["inner"].positions.tolist()
    assert draws["all"].positions[-1] > 4


@pytest.mark.parametrize("law", LAWS)
def test_one_boundary_skips_as_far_as_pose_with_two_chunks(law: str) -> None:
    turns, rng = np.array([0, 0, 1, 1]), np.random.default_rng(0)
    method = SkipAlign(law=law, p_skip=1.0)
    ends = np.array([method.draw(4, window(8), rng, turns=turns).positions[-1] for _ in range(1000)])
    theirs = np.array([PoSE().draw(4, window(8), rng).positions[-1] for _ in range(1000)])
    for end in range(3, 8):  # uniform in 0 .. 4 by either
        assert (ends == end).mean() == pytest.approx(0.2, abs=0.055)
        assert (theirs == end).mean() == pytest.approx(0.2, abs=0.055)


COVERAGE = {
    "pose": (1.00, [0.83, 0.57, 0.34, 0.31, 0.51, 0.96, 0.94]),
    "sorted": (0.92, [0.96, 0.93, 0.87, 0.66, 0.48, 0.35, 0.02]),
    "budget": (0.49, [0.99, 0.85, 0.48, 0.19, 0.10, 0.05, 0.00]),
}
"""Mean of the last skip over M, and how often distances occur: 12 blocks, n = 600, Lt = 4096, by simulation."""


@pytest.mark.parametrize("law", LAWS)
def test_coverage_over_twelve_blocks(law: str) -> None:
    turns, rng, draws = np.repeat(np.arange(12), 50), np.random.default_rng(0), 600
    method = SkipAlign(strategy="all", law=law, p_skip=1.0)
    last, seen = 0.0, np.zeros(7)
    for _ in range(draws):
        positions = method.draw(600, window(4096), rng, turns=turns).positions
        there = np.zeros(2 * 4096, dtype=bool)
        there[positions] = True
        seen += [there[positions + distance].any() for distance in (601, 1024, 2048, 3072, 3496, 3796, 4088)]
        last += (positions[-1] - 599) / 3496
    mean, shares = COVERAGE[law]
    assert last / draws == pytest.approx(mean, abs=0.05)
    assert (seen / draws).tolist() == pytest.approx(shares, abs=0.08)


def test_the_share_of_skipped_conversations() -> None:
    turns, rng = np.array([0, 1]), np.random.default_rng(0)
    moved = [SkipAlign(p_skip=0.25).draw(2, window(1000), rng, turns=turns).positions[1] > 1 for _ in range(2000)]
    assert np.mean(moved) == pytest.approx(0.25, abs=0.055)


def test_text_without_turns_and_conversations_beyond_the_target_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(MethodError, match="train it on conversations"):
        SkipAlign().draw(4, window(8), rng)
    with pytest.raises(LengthError, match="cannot place a window of 9 tokens"):
        SkipAlign().draw(9, window(8), rng, turns=np.zeros(9, dtype=int))
    with pytest.raises(MethodError, match="between 0 and 1"):
        SkipAlign(p_skip=2)
