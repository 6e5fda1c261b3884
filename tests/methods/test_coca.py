from __future__ import annotations

import math

import pytest
import torch

from longspan.equation import Window
from longspan.kernels.dense import attention
from longspan.methods.feature.coca import Coca
from longspan.reference import reference_attention
from longspan.rotation import rotate_pairs, rotation_tables
from tolerances import distance


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def score(form: str, m: int, n: int, q: tuple, t: tuple = (0.4, -0.6, 0.2, 1.0), layout: str = "half") -> float:
    method, window = Coca(form=form), Window(rotary_dim=4, original_length=8, target_length=8)

    def rotate(x: torch.Tensor, position: int) -> torch.Tensor:
        return rotate_pairs(x, *rotation_tables(window.omega, torch.tensor([position]), torch.float64), layout)

    query, key = (torch.tensor([x], dtype=torch.float64) for x in (q, t))
    return float((method.query(query, lambda x: rotate(x, m), layout) * rotate(method.psi(key, layout, {}), n)).sum())


Q, TIED = (1, 2, 3, -1), (1, 2, 1, 2)


@pytest.mark.parametrize(
    ("form", "m", "n", "q", "layout", "expected"),
    [
        ("exact", 5, 2, Q, "half", -1.970427456052),
        ("exact", 1005, 1002, Q, "half", -1.970427456052),
        ("slack", 5, 2, Q, "half", -0.318834030982),
        ("slack", 1005, 1002, Q, "half", -2.390381886375),
        ("slack", 3, 0, Q, "half", -1.970427456052),
        ("exact", 5, 5, Q, "half", 4.0),
        ("slack", 5, 5, Q, "half", 2.209285473243),
        ("exact", 5, 2, Q, "interleaved", 5.997300202494),
        ("exact", 5, 2, TIED, "half", 1.005284556038),
        ("slack", 5, 2, TIED, "half", 1.005284556038),
        ("strict", 5, 2, TIED, "half", 1.005284556038),
    ],
)
def test_scores_of_the_worked_example(form: str, m: int, n: int, q: tuple, layout: str, expected: float) -> None:
    assert score(form, m, n, q, layout=layout) == pytest.approx(expected, abs=1e-12)


def literal_output(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: list[int], base: float) -> torch.Tensor:
    """Attention of some queries by the definition: query m sees at n the key q_m * t_n, and both are rotated."""
    head_dim = q.shape[-1]
    pairs = head_dim // 2
    omega = torch.tensor([base ** (-2 * j / head_dim) for j in range(pairs)], dtype=torch.float64)
    t = ((k[:, :pairs] + k[:, pairs:]) / 2).clamp(min=0)
    outputs = []
    for m in rows:
        seen = torch.arange(m + 1)[:, None]
        key = q[m] * torch.cat((t[: m + 1], t[: m + 1]), dim=-1)
        turned_key = torch.complex(key[:, :pairs], key[:, pairs:]) * torch.exp(1j * seen * omega)
        turned_query = torch.complex(q[m, :pairs], q[m, pairs:]) * torch.exp(1j * m * omega)
        scores = (turned_key * turned_query.conj()).real.sum(-1) / math.sqrt(head_dim)
        outputs.append(scores.softmax(0) @ v[: m + 1])
    return torch.stack(outputs)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_exact_form_equals_the_literal_definition_at_length_4096(dtype: torch.dtype, limit: float) -> None:
    length, head_dim, rows = 4096, 32, [0, 1, 17, 1000, 2047, 3001, 4095]
    q, k, v = (draw(length, head_dim, seed=seed) for seed in range(3))
    window = Window(rotary_dim=head_dim, original_length=512, target_length=512)
    inputs = (x[None, None].to(dtype) for x in (q, k, v))
    found = attention(*inputs, methods=[Coca()], window=window)[0, 0, rows]
    expected = literal_output(*(x.to(dtype).double() for x in (q, k, v)), rows, window.base)
    assert distance(found, expected) < limit


def test_slack_form_equals_the_released_contraction() -> None:
    heads, length, head_dim = 2, 9, 8
    q, k = draw(1, heads, length, head_dim), draw(1, heads, length, head_dim, seed=1)
    window = Window(rotary_dim=head_dim, original_length=16, target_length=16)
    cos, sin = (torch.cat((x, x), dim=-1) for x in rotation_tables(window.omega, torch.arange(length), torch.float64))

    def turned(x: torch.Tensor) -> torch.Tensor:  # rotate_half as transformers writes it
        return x * cos + torch.cat((-x[..., 4:], x[..., :4]), dim=-1) * sin

    mean = torch.relu((k[..., :4] + k[..., 4:]) / 2)
    t = torch.cat((mean, mean), dim=-1)
    b_p_n_d, b_p_s_d = turned(q), turned(t)
    scores = torch.einsum("bpnd,bpsd,bpnd->bpns", q, b_p_s_d, b_p_n_d) / math.sqrt(head_dim)
    hidden = torch.ones(length, length).triu(1).bool()
    v = draw(1, heads, length, 5, seed=2)
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    found = attention(q, k, v, methods=[Coca(form="slack")], window=window)
    assert distance(found, expected) < 1e-12


def test_slack_form_is_not_relative() -> None:
    window = Window(rotary_dim=16, original_length=64, target_length=64)
    q, k, v = (draw(1, 2, 20, 16, seed=i) for i in range(3))
    places = torch.arange(20)

    def moved(form: str) -> float:
        outputs = [
            reference_attention(
                q, k, v, methods=[Coca(form=form)], window=window,
                query_positions=places + shift, key_positions=places + shift,
            )
            for shift in (0, 1000)
        ]  # fmt: skip
        return distance(outputs[1], outputs[0])

    assert moved("slack") > 0.1
    assert moved("exact") < 1e-10
    assert moved("strict") < 1e-10


def test_no_distance_scores_higher_than_zero() -> None:
    near = score("exact", 0, 0, Q)
    assert all(score("exact", m, 0, Q) <= near for m in range(1, 500))


def test_forms_agree_where_the_halves_of_the_query_are_tied() -> None:
    window = Window(rotary_dim=8, original_length=16, target_length=16)
    half = draw(1, 2, 9, 4)
    q, k, v = torch.cat((half, half), dim=-1), draw(1, 2, 9, 8, seed=1), draw(1, 2, 9, 8, seed=2)
    exact, slack, strict = (
        attention(q, k, v, methods=[Coca(form=form)], window=window) for form in ("exact", "slack", "strict")
    )
    assert distance(slack, exact) < 1e-12
    assert distance(strict, exact) < 1e-12


def test_mean_logit_of_random_inputs_is_the_one_derived() -> None:
    head_dim, samples = 64, 200_000
    q, k = draw(samples, head_dim), draw(samples, head_dim, seed=1)
    method = Coca()
    logits = (method.phi(q, "half") * method.psi(k, "half", {})).sum(-1) / math.sqrt(head_dim)
    assert logits.mean().item() == pytest.approx(math.sqrt(head_dim) / (2 * math.sqrt(math.pi)), rel=0.01)
