from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softplus

from longspan.equation import Window
from longspan.methods.feature.pope import PoPE
from longspan.rotation import rotate_pairs, rotation_tables


def scores(method: PoPE, q: torch.Tensor, k: torch.Tensor, m: int, n: int, phase: torch.Tensor | None) -> float:
    width = method.rotary_dim(q.shape[-1])
    omega = Window(rotary_dim=width, original_length=8, target_length=8).omega

    def rotate(x: torch.Tensor, position: int) -> torch.Tensor:
        return rotate_pairs(x, *rotation_tables(omega, torch.tensor([position]), torch.float64), "half")

    query = method.query(q[None, None], lambda x: rotate(x, m), "half")
    key = rotate(method.psi(k[None, None], "half", {} if phase is None else {"phase": phase[None]}), n)
    return float((query * key).sum())


def test_scores_equal_the_published_sum() -> None:
    q, k = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    phase = -2 * math.pi * torch.rand(6, dtype=torch.float64)
    expected = sum(
        softplus(q[c]) * softplus(k[c]) * math.cos((7 - 3) * 10000 ** (-c / 6) - phase[c].item()) for c in range(6)
    )
    assert scores(PoPE(), q, k, 7, 3, phase) == pytest.approx(float(expected), abs=1e-12)


def test_without_a_phase_no_distance_scores_higher_than_zero() -> None:
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    near = scores(PoPE(phase=False), q, k, 0, 0, None)
    assert all(scores(PoPE(phase=False), q, k, m, 0, None) <= near for m in range(1, 200))


def test_half_width_costs_what_rope_costs() -> None:
    method = PoPE(width="half")
    assert method.rotary_dim(8) == 8
    assert PoPE().rotary_dim(8) == 16
    assert method.parameters(2, 8)["phase"].shape == (2, 4)


def test_half_width_scores_equal_the_sum_over_means_of_pairs() -> None:
    q, k = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    phase = torch.zeros(3, dtype=torch.float64)
    expected = sum(
        softplus((q[c] + q[c + 3]) / 2) * softplus((k[c] + k[c + 3]) / 2) * math.cos(4 * 10000 ** (-c / 3))
        for c in range(3)
    )
    assert scores(PoPE(width="half"), q, k, 7, 3, phase) == pytest.approx(float(expected), abs=1e-12)


def test_phases_of_one_angle_score_alike_and_all_get_a_gradient() -> None:
    phase = torch.tensor(
        [[0.5, -1.0], [0.5 - 2 * math.pi, -1.0 - 2 * math.pi]], dtype=torch.float64, requires_grad=True
    )
    k = torch.randn(1, 1, 3, 2, dtype=torch.float64).expand(1, 2, 3, 2)
    found = PoPE().psi(k, "half", {"phase": phase})
    (found**2 @ torch.arange(1.0, 5.0, dtype=torch.float64)).sum().backward()
    assert torch.allclose(found[:, 0], found[:, 1])
    assert phase.grad.abs().min() > 0
