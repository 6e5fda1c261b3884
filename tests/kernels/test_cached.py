"""Attention to a cache in blocks, against torch's own with a mask of everything."""

import pytest
import torch

from longspan.kernels import cached
from longspan.kernels.cached import cached_attention


@pytest.mark.parametrize("window", [None, 1, 7, 40, 200])
@pytest.mark.parametrize("queries", [1, 13, 100])
def test_equals_one_softmax_under_a_mask(queries, window, monkeypatch):
    monkeypatch.setattr(cached, "KEYS", 16)
    monkeypatch.setattr(cached, "QUERIES", 5)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, length, 8, dtype=torch.float64, generator=generator)
        for heads, length in ((4, queries), (2, 100), (2, 100))
    )
    distance = torch.arange(100 - queries, 100)[:, None] - torch.arange(100)
    seen = (distance >= 0) & (distance < (window or 100))
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), attn_mask=seen, scale=0.3
    )
    found = cached_attention(q, k, v, scaling=0.3, window=window)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_many_blocks_are_rounded_once(monkeypatch):
    monkeypatch.setattr(cached, "KEYS", 8)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, length, 16, generator=generator).bfloat16() for length in (4, 2000, 2000))
    seen = torch.ones(4, 2000, dtype=torch.bool).tril(1996)
    wide = [x.double() for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*wide, attn_mask=seen)
    found = cached_attention(q, k, v, scaling=0.25).double()
    assert (found - expected).norm() < 4e-3 * expected.norm()
