"""CRD NTK: the growing base by hand, the cycle by brute force, each letter alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from longspan.equation import Window
from longspan.errors import MethodError
from longspan.methods.frequency.crd_ntk import CrdNtk
from longspan.reference import reference_attention

LLAMA_2 = Window(rotary_dim=128, base=1e4, original_length=4096, target_length=1 << 20)
PUBLISHED = CrdNtk(period=32768)


@pytest.mark.parametrize(("factor", "alpha"), [(16, 113), (4096, 28_673), (8192, 57_345), (16384, 114_689)])
def test_alpha_by_hand_with_a_period_of_eight_windows(factor: float, alpha: float) -> None:
    assert PUBLISHED.alpha(factor, LLAMA_2) == alpha


def test_ten_stages_of_llama_2_by_hand() -> None:
    alphas = [113, 225, 449, 897, 1793, 3585, 7169, 14337, 28673, 57345]
    bases = [1.2e6, 2.5e6, 5.0e6, 1.0e7, 2.0e7, 4.1e7, 8.3e7, 1.7e8, 3.4e8, 6.8e8]
    for stage, (alpha, base) in enumerate(zip(alphas, bases, strict=True)):
        for step in (500 * stage, 500 * stage + 499):
            omega = PUBLISHED.in_training(LLAMA_2, step)
            assert float(LLAMA_2.omega[-1] / omega[-1]) == pytest.approx(alpha)
            assert float(omega[1]) ** -64 == pytest.approx(base, rel=0.05)  # the table has two digits
    assert torch.equal(PUBLISHED.in_training(LLAMA_2, 5000), PUBLISHED.in_training(LLAMA_2, 10**9))


@pytest.mark.parametrize(
    ("length", "scale"),
    [(28 << 10, 113), (32 << 10, 128), (64 << 10, 256), (256 << 10, 1024), (1 << 20, 4096), (4 << 20, 16384)],
)
def test_the_scale_at_inference_by_hand(length: int, scale: float) -> None:
    window = Window(rotary_dim=128, base=1e4, original_length=4096, target_length=length)
    assert float(window.omega[-1] / PUBLISHED.frequency(window)[-1]) == pytest.approx(scale)


def test_the_scale_never_leaves_what_was_trained() -> None:
    short = CrdNtk(period=32768, trained_steps=501)  # saw f = 16 and 32
    assert float(LLAMA_2.omega[-1] / short.frequency(LLAMA_2)[-1]) == pytest.approx(225)
    fixed = CrdNtk(period=32768, growing=False, first_factor=4096)
    assert float(LLAMA_2.omega[-1] / fixed.frequency(LLAMA_2)[-1]) == pytest.approx(28_673)
    chosen = CrdNtk(period=32768, inference_scale=1024)
    assert float(LLAMA_2.omega[-1] / chosen.frequency(LLAMA_2)[-1]) == pytest.approx(1024)


def test_the_fastest_pair_keeps_its_speed_and_growth_never_turns_back() -> None:
    found = [PUBLISHED.in_training(LLAMA_2, step) for step in range(0, 6000, 250)]
    assert all(float(omega[0]) == 1 for omega in found)
    assert all((later[1:] <= earlier[1:]).all() for earlier, later in itertools.pairwise(found))
    still = CrdNtk(growing=False)
    assert torch.equal(still.in_training(LLAMA_2, 0), still.in_training(LLAMA_2, 5000))


@pytest.mark.parametrize("period", [4096, 2048])
def test_a_period_within_the_trained_window_is_refused_since_it_slows_nothing(period: int) -> None:
    for asked in (CrdNtk(period=period).frequency, lambda window: CrdNtk(period=period).in_training(window, 0)):
        with pytest.raises(MethodError, match=r"slows no pair .* raise the period"):
            asked(LLAMA_2)


def windows(method: CrdNtk, length: int, count: int = 400) -> list[np.ndarray]:
    window, rng = Window(rotary_dim=8, original_length=length, target_length=16 * length), np.random.default_rng(0)
    return [method.draw(length, window, rng).positions for _ in range(count)]


def distances(positions: np.ndarray) -> set[int]:
    return set(np.abs(positions[:, None] - positions).ravel().tolist()) - {0}


def test_a_cycle_of_two_windows_shows_every_distance_but_its_half() -> None:
    found = set().union(*(distances(positions) for positions in windows(CrdNtk(), 16)))
    assert found == set(range(1, 32)) - {16}
    share = np.mean([(np.diff(positions) < 0).any() for positions in windows(CrdNtk(), 16, 3000)])
    assert share == pytest.approx(15 / 32, abs=0.04)


def test_letters_alone() -> None:
    arange = np.arange(16)
    assert all((positions == arange).all() for positions in windows(CrdNtk(truncated=False, growing=False), 16))
    shifted = windows(CrdNtk(cyclic=False), 16)
    assert all((positions - positions[0] == arange).all() for positions in shifted)
    assert max(positions[0] for positions in shifted) > 10**6
    short = windows(CrdNtk(period=8, truncated=False), 16)
    assert all((positions == arange % 8).all() for positions in short)


def test_an_offset_changes_nothing_and_a_wrap_does() -> None:
    window = Window(rotary_dim=16, original_length=16, target_length=64)
    q, k, v = (
        torch.randn(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1, 2)
    )

    def attended(positions: np.ndarray) -> torch.Tensor:
        places = torch.from_numpy(positions)
        return reference_attention(
            q, k, v, methods=[CrdNtk()], window=window, query_positions=places, key_positions=places
        )

    here = attended(np.arange(16))
    assert (attended(np.arange(16) + 12_345) - here).abs().max() < 1e-10
    assert (attended((np.arange(16) + 24) % 32) - here).abs().max() > 0.1


def test_the_run_writes_down_what_it_trained() -> None:
    method = CrdNtk(stage_steps=10).for_run(256, 35)
    assert (method.period, method.trained_steps) == (512, 35)
    assert method.factor_at(34) == 128
    assert CrdNtk(period=99).for_run(256, 35).period == 99


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"period": 0}, "period must be positive"),
        ({"first_factor": 0}, "first_factor must be positive"),
        ({"inference_scale": 0.5}, "at least 1"),
        ({"last_factor": 8}, "below first_factor"),
        ({"growing": False, "stage_steps": 5}, "stage_steps has no effect without growing"),
        ({"truncated": False, "span": 5}, "span has no effect without truncated"),
    ],
)
def test_settings_without_sense_or_effect_are_refused(options: dict, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        CrdNtk(**options)
