"""Blocks of keys, attended one by one and merged, against one softmax over all of them."""

import pytest
import torch

from longspan.kernels import blocks
from longspan.kernels.blocks import (
    Piece,
    attend_block,
    attend_pieces,
    cuda_flash_block,
    cuda_flash_gradients,
    flash_block,
    flash_gradients,
    merge_blocks,
    plain_block,
    plain_gradients,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax_over(q, k, v, seen, scaling):
    logits = (q @ k.transpose(-1, -2) * scaling).masked_fill(~seen, -torch.inf)
    return logits.softmax(-1).nan_to_num() @ v


def test_pieces_equal_one_softmax_with_gradients():
    q, k, v = (x.requires_grad_() for x in (draw(2, 3, 7, 8), draw(2, 3, 20, 8, seed=1), draw(2, 3, 20, 5, seed=2)))
    seen = draw(2, 1, 7, 20, seed=3) > 0
    seen[0, 0, 2] = False  # sees nothing at all
    seen[1, 0, 4, :12] = False  # sees nothing of the first piece
    weight = draw(2, 3, 7, 5, seed=4)
    v_wide = torch.nn.functional.pad(v, (0, 3))
    pieces = [
        Piece(q, k[:, :, :12], v_wide[:, :, :12], seen[..., :12]),
        Piece(q, k[:, :, 12:], v_wide[:, :, 12:], seen[..., 12:]),
    ]
    found = attend_pieces(pieces, 0.3)[..., :5]
    expected = softmax_over(q, k, v, seen, 0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    gradients = [torch.autograd.grad((out * weight).sum(), (q, k, v), retain_graph=True) for out in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_a_causal_block_and_a_full_one_equal_causal_attention():
    q, k, v = draw(1, 2, 6, 8), draw(1, 2, 16, 8, seed=1), draw(1, 2, 16, 8, seed=2)
    past = attend_block(q, k[:, :, :10], v[:, :, :10], scaling=0.5)
    own = attend_block(q, k[:, :, 10:], v[:, :, 10:], causal=True, scaling=0.5)
    seen = torch.ones(6, 16, dtype=torch.bool).tril(10)
    torch.testing.assert_close(merge_blocks(past, own)[0], softmax_over(q, k, v, seen, 0.5), rtol=0, atol=1e-14)


@pytest.mark.parametrize("causal", [True, False])
def test_both_ways_of_computing_a_block_agree(causal):
    q, k, v, gradient = (draw(1, 2, 6, 8, seed=seed) for seed in range(4))
    seen = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    seen[..., 3] = False
    arguments = (causal, None if causal else seen, 0.5)
    flash, plain = flash_block(q, k, v, *arguments), plain_block(q, k, v, *arguments)
    for one, other in zip(flash, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)
    there, here = (way(q, k, v, gradient, *flash, *arguments) for way in (flash_gradients, plain_gradients))
    for one, other in zip(there, here, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_capped_logits_equal_one_softmax():
    q, k, v = draw(1, 2, 6, 8), draw(1, 2, 16, 8, seed=1), draw(1, 2, 16, 8, seed=2)
    seen = torch.ones(1, 1, 6, 16, dtype=torch.bool).tril(10)
    found = attend_pieces(
        [Piece(q, k[:, :, :10], v[:, :, :10]), Piece(q, k[:, :, 10:], v[:, :, 10:], seen[..., 10:])], 0.5, 2.0
    )
    logits = (2 * torch.tanh(q @ k.mT * 0.5 / 2)).masked_fill(~seen, -torch.inf)
    torch.testing.assert_close(found, logits.softmax(-1) @ v, rtol=0, atol=1e-14)


def test_the_kernel_of_a_gpu_takes_the_calls_and_gives_the_shapes_of_the_plain_one():
    """Without a GPU: torch's own shape rules check the arguments of both calls."""
    q = torch.empty(2, 3, 48, 64, dtype=torch.bfloat16, device="meta")
    k = torch.empty(2, 3, 80, 64, dtype=torch.bfloat16, device="meta")
    output, logs = cuda_flash_block(q, k, k, False, None, 0.3)
    plain = plain_block(q, k, k, False, None, 0.3)
    assert [(x.shape, x.dtype) for x in (output, logs)] == [(x.shape, x.dtype) for x in plain]
    gradients = cuda_flash_gradients(q, k, k, output, output, logs, False, None, 0.3)
    assert [x.shape for x in gradients] == [q.shape, k.shape, k.shape]


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_of_a_gpu_equals_the_plain_one_with_gradients(causal):
    q, k, v, gradient = (draw(2, 3, 256, 64, seed=seed) for seed in range(4))
    low = [x.to("cuda", torch.bfloat16) for x in (q, k, v, gradient)]
    expected, logs = plain_block(q, k, v, causal, None, 0.125)
    found, found_logs = cuda_flash_block(*low[:3], causal, None, 0.125)
    assert (found.cpu().double() - expected).norm() < 1e-2 * expected.norm()
    torch.testing.assert_close(found_logs.cpu().double(), logs, rtol=0, atol=2e-2)
    slow = plain_gradients(q, k, v, gradient, expected, logs, causal, None, 0.125)
    fast = cuda_flash_gradients(*low, found, found_logs, causal, None, 0.125)
    for one, other in zip(fast, slow, strict=True):
        assert (one.cpu().double() - other).norm() < 2e-2 * other.norm()


def test_a_block_that_no_gpu_kernel_takes_says_so_once(caplog):
    q = torch.empty(1, 1, 8, 16, dtype=torch.float32)
    reason = blocks.why_not_flash(q, q, q, None)
    assert "float32" in reason
    assert "bf16" in reason
    for _ in range(2):
        blocks.say_once(reason)
    assert [record.message for record in caplog.records] == [reason]
    half = q.to(torch.bfloat16)
    assert blocks.why_not_flash(half, half, half, None) is None
    assert "mask" in blocks.why_not_flash(half, half, half, torch.ones(1, 1, 8, 8, dtype=torch.bool))
    odd = half[..., :7]
    assert "heads of 7" in blocks.why_not_flash(odd, odd, odd, None)
