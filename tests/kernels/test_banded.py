"""Banded attention against one softmax over logits that are computed pair by pair."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.equation import Band, Window
from longspan.kernels import banded
from longspan.kernels.banded import banded_attention
from longspan.rotation import rotate_pairs, rotation_tables

OMEGA = Window(rotary_dim=8, original_length=64, target_length=64).omega


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def turn(x, positions):
    cos, sin = rotation_tables(OMEGA, positions, x.dtype)
    return rotate_pairs(x, cos[:, None], sin[:, None], "half")


def two_bands(window, group):
    """Near keys at their own positions, far ones at positions in groups, as Self-Extend has them."""
    return [
        Band(lambda p: p - window + 1, lambda p: p, lambda p: p, lambda p: p),
        Band(
            lambda p: p * 0, lambda p: p - window, lambda p: p // group + window - window // group, lambda p: p // group
        ),
    ]


def relative(i, j, window, group):
    return i - j if i - j < window else i // group + window - window // group - j // group


def pair_by_pair(q, k, v, distance, positions, valid):
    """Softmax of Re(q conj(k) e^{i distance omega}), for each query by itself."""
    output = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64)
    queries, keys = q.shape[2], k.shape[2]
    for b in range(q.shape[0]):
        for t in range(queries):
            index = keys - queries + t
            seen = [s for s in range(index + 1) if valid[b, s]]
            if not seen:
                continue
            i = int(positions[b, index])
            rel = torch.tensor([float(distance(i, int(positions[b, s]))) for s in seen], dtype=torch.float64)
            for h in range(q.shape[1]):
                complex_q = torch.complex(*q[b, h, t].chunk(2))
                complex_k = torch.complex(*k[b, h, seen].chunk(2, dim=-1))
                logits = (complex_q * complex_k.conj() * torch.exp(1j * rel[:, None] * OMEGA)).sum(-1).real
                output[b, h, t] = (logits * 0.35).softmax(-1) @ v[b, h, seen]
    return output


def both_ways(length, queries, window, group, padding=(0,)):
    """Banded attention and the pairwise formula of the same input."""
    batch = len(padding)
    q, k, v = draw(batch, 2, queries, 8), draw(batch, 2, length, 8, seed=1), draw(batch, 2, length, 8, seed=2)
    pad = torch.tensor(padding)[:, None]
    positions = (torch.arange(length) - pad).clamp(min=0)
    valid = torch.arange(length) >= pad
    found = banded_attention(
        q,
        k,
        v,
        two_bands(window, group),
        turn,
        turn,
        query_positions=positions[:, length - queries :],
        key_positions=positions,
        seen=valid[:, None],
        scaling=0.35,
    )
    expected = pair_by_pair(q, k, v, lambda i, j: relative(i, j, window, group), positions, valid)
    return found, expected


@settings(max_examples=20, deadline=None)
@given(
    length=st.integers(1, 60),
    share=st.floats(0, 1),
    window=st.sampled_from([4, 8, 16]),
    group=st.sampled_from([1, 2, 4]),
    block=st.sampled_from([1, 7, 512]),
)
def test_equals_the_pairwise_formula_in_prefill_and_decoding(length, share, window, group, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(banded, "QUERIES", block)
        found, expected = both_ways(length, max(1, round(share * length)), window, group)
    assert (found - expected).abs().max() < 1e-13


def test_rows_padded_on_the_left_equal_rows_by_themselves():
    found, expected = both_ways(40, 40, 8, 4, padding=(0, 13, 39))
    assert (found - expected).abs().max() < 1e-13


def test_gradients_equal_those_through_one_softmax():
    q, k, v = (draw(1, 2, 40, 8, seed=seed).requires_grad_() for seed in range(3))
    positions = torch.arange(40)[None]
    places = {"query_positions": positions, "key_positions": positions, "scaling": 0.35}
    found = banded_attention(q, k, v, two_bands(8, 4), turn, turn, **places)
    near, far = (torch.ones(40, 40, dtype=torch.bool).tril(top) for top in (0, -8))
    logits = turn(q, positions) @ turn(k, positions).transpose(-1, -2)
    grouped = turn(q, positions // 4 + 6) @ turn(k, positions // 4).transpose(-1, -2)
    weights = (torch.where(far, grouped, logits) * 0.35).masked_fill(~near, -torch.inf).softmax(-1)
    expected = weights @ v
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    weight = draw(1, 2, 40, 8, seed=9)
    gradients = [torch.autograd.grad((out * weight).sum(), (q, k, v), retain_graph=True) for out in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_fractional_positions_are_turned_by_what_they_say():
    q, k, v = (draw(1, 1, 12, 8, seed=seed) for seed in range(3))
    positions = torch.arange(12)[None]
    leaky = Band(lambda p: p * 0, lambda p: p, lambda p: p / 2, lambda p: p / 2)
    found = banded_attention(
        q, k, v, [leaky], turn, turn, query_positions=positions, key_positions=positions, scaling=0.35
    )
    expected = pair_by_pair(q, k, v, lambda i, j: (i - j) / 2, positions, torch.ones(1, 12, dtype=torch.bool))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
