"""The fast path where the contract tests do not look: long inputs, wide features, memory, NaN in unused places."""

from __future__ import annotations

import pytest
import torch

from longspan.equation import Window
from longspan.kernels.dense import attention, pad_value
from longspan.methods.feature.coca import Coca
from longspan.methods.feature.pope import PoPE
from longspan.methods.frequency.pi import Pi
from longspan.reference import reference_attention
from tolerances import TOLERANCE, distance


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_without_a_window_it_is_torch_attention() -> None:
    q, k, v = draw(2, 4, 6, 8), draw(2, 4, 6, 8, seed=1), draw(2, 4, 6, 5, seed=2)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert distance(attention(q, k, v), expected) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("method", [PoPE(), Coca()])
def test_values_wider_or_narrower_than_the_features_come_back_at_their_own_width(method: object) -> None:
    window = Window(rotary_dim=8, original_length=16, target_length=16)
    for width in (3, 16, 21):
        q, k, v = draw(1, 2, 7, 8), draw(1, 2, 7, 8, seed=1), draw(1, 2, 7, width, seed=2)
        found = attention(q, k, v, methods=[method], window=window)
        expected = reference_attention(q, k, v, methods=[method], window=window)
        assert found.shape == (1, 2, 7, width)
        assert distance(found, expected) < TOLERANCE[torch.float64]


def test_padding_a_value_keeps_its_columns_and_adds_zeros() -> None:
    v = draw(1, 1, 2, 5)
    value, width = pad_value(draw(1, 1, 2, 8), v)
    assert width == 5
    assert torch.equal(value[..., :5], v)
    assert not value[..., 5:].any()


@pytest.mark.parametrize("queries", [1, 4])
def test_decoding_equals_the_last_rows_of_the_full_call(queries: int) -> None:
    window = Window(rotary_dim=8, original_length=16, target_length=64)
    q, k, v = draw(2, 4, 23, 8), draw(2, 2, 23, 8, seed=1), draw(2, 2, 23, 8, seed=2)
    full = attention(q, k, v, methods=[Coca(), Pi()], window=window)
    last = attention(q[:, :, -queries:], k, v, methods=[Coca(), Pi()], window=window)
    assert distance(last, full[:, :, -queries:]) < TOLERANCE[torch.float64]


def test_keys_beyond_a_row_s_length_are_never_read() -> None:
    window = Window(rotary_dim=8, original_length=16, target_length=16)
    q, k, v = draw(2, 2, 9, 8), draw(2, 2, 9, 8, seed=1), draw(2, 2, 9, 8, seed=2)
    other_k, other_v = k.clone(), v.clone()
    other_k[1, :, 6:], other_v[1, :, 6:] = 1e6, 1e6
    found = attention(q, other_k, other_v, methods=[Coca()], window=window, lengths=[9, 6])
    assert torch.equal(found, attention(q, k, v, methods=[Coca()], window=window, lengths=[9, 6]))


def test_full_attention_sees_later_keys() -> None:
    q, k, v = draw(1, 1, 4, 8), draw(1, 1, 6, 8, seed=1), draw(1, 1, 6, 8, seed=2)
    window = Window(rotary_dim=8, original_length=16, target_length=16)
    positions = {"query_positions": torch.arange(4), "key_positions": torch.arange(6)}
    found = attention(q, k, v, window=window, causal=False, **positions)
    assert distance(found, reference_attention(q, k, v, window=window, causal=False, **positions)) < 1e-12
