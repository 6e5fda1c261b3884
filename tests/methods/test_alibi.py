from __future__ import annotations

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from longspan.equation import Window
from longspan.kernels import dense
from longspan.methods.bias.alibi import Alibi, slopes
from longspan.reference import reference_attention


def test_slopes_by_hand() -> None:
    assert slopes(4) == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    assert slopes(8) == [2.0**-h for h in range(1, 9)]
    assert slopes(12) == pytest.approx([*slopes(8), 0.707107, 0.353553, 0.176777, 0.088388], abs=1e-6)


def test_attention_weights_equal_those_of_transformers_bloom_bias() -> None:
    heads, length = 8, 9
    bloom = build_alibi_tensor(torch.ones(1, length), heads, torch.float32).view(heads, 1, length)
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    ours = Alibi().bias(heads, distance)
    hidden = torch.ones(length, length).triu(1).bool()
    expected = bloom.expand(heads, length, length).masked_fill(hidden, -torch.inf).softmax(-1)
    assert torch.allclose(ours.masked_fill(hidden, -torch.inf).softmax(-1), expected, atol=1e-6)


def test_nothing_rotates() -> None:
    window = Window(rotary_dim=8, original_length=8, target_length=8)
    assert not Alibi().frequency(window).any()


def test_the_bias_is_built_in_blocks_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(2, 4, 37, 8, dtype=torch.float64) for _ in range(3))
    window = Window(rotary_dim=8, original_length=8, target_length=64)
    largest = []
    original = Alibi.bias

    def watched(self: Alibi, heads: int, distance: torch.Tensor) -> torch.Tensor:
        bias = original(self, heads, distance)
        largest.append(bias.numel())
        return bias

    expected = reference_attention(q, k, v, methods=[Alibi()], window=window)
    monkeypatch.setattr(Alibi, "bias", watched)
    monkeypatch.setattr(dense, "BIAS_ELEMENTS", 2000)
    found = dense.attention(q, k, v, methods=[Alibi()], window=window)
    assert len(largest) > 5
    assert max(largest) <= 2000
    assert torch.allclose(found, expected, atol=1e-12)
