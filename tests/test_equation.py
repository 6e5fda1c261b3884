"""The reference attention and the window, against numbers worked by hand and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import TypeCheckError

from longspan.equation import Window, fill_slots
from longspan.errors import LengthError, MethodError
from longspan.reference import reference_attention
from longspan.registry import parse_methods
from longspan.rotation import join_pairs, rotation_tables, split_pairs


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_reference_equals_loops_over_every_index() -> None:
    batch, heads, key_heads, queries, keys, head_dim = 2, 4, 2, 3, 5, 6
    q, k, v = draw(batch, heads, queries, head_dim), draw(batch, key_heads, keys, head_dim), draw(2, 2, 5, 4, seed=2)
    window = Window(rotary_dim=4, base=100.0, original_length=8, target_length=8)
    found = reference_attention(q, k, v, window=window)
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                place = keys - queries + i
                weights = []
                for j in range(place + 1):
                    score = float(q[b, h, i, 4:] @ k[b, h // 2, j, 4:])
                    for pair in range(2):
                        angle = (place - j) * 100.0 ** (-2 * pair / 4)
                        q1, q2 = q[b, h, i, pair], q[b, h, i, pair + 2]
                        k1, k2 = k[b, h // 2, j, pair], k[b, h // 2, j, pair + 2]
                        score += float((q1 * k1 + q2 * k2) * math.cos(angle) + (q1 * k2 - q2 * k1) * math.sin(angle))
                    weights.append(math.exp(score / math.sqrt(head_dim)))
                expected = sum(w * v[b, h // 2, j] for j, w in enumerate(weights)) / sum(weights)
                assert torch.allclose(found[b, h, i], expected, atol=1e-12)


def test_rows_of_unequal_length_equal_their_own_runs() -> None:
    q, k, v = draw(2, 2, 7, 4), draw(2, 2, 7, 4, seed=1), draw(2, 2, 7, 4, seed=2)
    window = Window(rotary_dim=4, original_length=8, target_length=8)
    both = reference_attention(q, k, v, window=window, lengths=[7, 3])
    alone = reference_attention(q[1:, :, :3], k[1:, :, :3], v[1:, :, :3], window=window)
    assert torch.allclose(both[1:, :, :3], alone, atol=1e-14)


def test_a_query_that_sees_no_key_returns_zeros() -> None:
    q = draw(1, 1, 2, 4)
    assert torch.equal(reference_attention(q, q, q, lengths=[0]), torch.zeros(1, 1, 2, 4, dtype=torch.float64))


def test_causality_follows_storage_order_whatever_the_positions_are() -> None:
    q, k, v = draw(1, 1, 4, 4), draw(1, 1, 4, 4, seed=1), draw(1, 1, 4, 4, seed=2)
    window = Window(rotary_dim=4, original_length=8, target_length=8)
    backwards = torch.tensor([3, 2, 1, 0])
    changed = v.clone()
    changed[:, :, -1] += 1
    before = reference_attention(q, k, v, window=window, key_positions=backwards)
    after = reference_attention(q, k, changed, window=window, key_positions=backwards)
    assert torch.equal(before[:, :, :-1], after[:, :, :-1])
    assert not torch.equal(before[:, :, -1], after[:, :, -1])


def test_frequencies_of_the_window_by_hand() -> None:
    window = Window(rotary_dim=4, base=10000.0, original_length=100, target_length=400)
    assert window.omega.tolist() == [1.0, 0.01]
    assert window.factor == 4
    assert window.turns.tolist() == pytest.approx([100 / (2 * math.pi), 1 / (2 * math.pi)])


def test_angles_at_a_million_tokens_are_right_in_float32() -> None:
    omega = Window(rotary_dim=4, base=10000.0, original_length=8, target_length=8).omega
    cos, _ = rotation_tables(omega, torch.tensor([1_000_003]), torch.float32)
    assert cos[0, 0].item() == pytest.approx(math.cos(1_000_003.0), abs=1e-7)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_joining_split_pairs_gives_them_back(layout: str) -> None:
    x = draw(2, 3, 8)
    assert torch.equal(join_pairs(*split_pairs(x, layout), layout), x)


def test_interleaved_pairs_are_half_split_pairs_with_columns_permuted() -> None:
    q, k, v = draw(1, 1, 5, 6), draw(1, 1, 5, 6, seed=1), draw(1, 1, 5, 6, seed=2)
    columns = torch.tensor([0, 2, 4, 1, 3, 5])
    sizes = {"rotary_dim": 6, "original_length": 8, "target_length": 8}
    interleaved = reference_attention(q, k, v, window=Window(layout="interleaved", **sizes))
    half = reference_attention(q[..., columns], k[..., columns], v, window=Window(layout="half", **sizes))
    assert torch.allclose(interleaved, half, atol=1e-13)


def test_two_methods_on_one_slot_are_refused_and_both_are_named() -> None:
    with pytest.raises(MethodError, match=r"Pi and Ntk both fill the slot 'frequency'"):
        fill_slots(parse_methods("pi+ntk"))
    with pytest.raises(MethodError, match=r"Yarn and LogN both fill the slot 'scale'"):
        fill_slots(parse_methods("yarn+log_n"))
    with pytest.raises(MethodError, match=r"Alibi and Yarn"):
        fill_slots(parse_methods("alibi+yarn"))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"target_length": 7}, LengthError),
        ({"rotary_dim": 3}, MethodError),
        ({"base": 1.0}, MethodError),
        ({"original_length": 0}, LengthError),
    ],
)
def test_impossible_windows_are_refused(settings: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        Window(**{"rotary_dim": 4, "original_length": 8, "target_length": 8, **settings})


def test_head_counts_that_do_not_divide_are_refused() -> None:
    with pytest.raises(MethodError, match="3 query heads cannot share 2"):
        reference_attention(draw(1, 3, 2, 4), draw(1, 2, 2, 4), draw(1, 2, 2, 4))


def test_shapes_in_signatures_are_checked_in_tests() -> None:
    with pytest.raises(TypeCheckError):
        reference_attention(draw(2, 2, 4), draw(1, 2, 2, 4), draw(1, 2, 2, 4))
    with pytest.raises(TypeCheckError):
        reference_attention(draw(1, 2, 2, 4), draw(1, 2, 2, 6), draw(1, 2, 2, 4))
