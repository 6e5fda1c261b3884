"""The loss in chunks against the loss of transformers and torch's own chunked function: value, gradients, memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from conftest import make_model
from longspan.train.config import RunConfig
from longspan.train.loss import ChunkedLoss, chunked_cross_entropy
from train.test_trainer import train

SETTINGS = {
    "gemma2": {"final_logit_softcapping": 3.0},
    "gemma3_text": {"final_logit_softcapping": 3.0},
    "mixtral": {"output_router_logits": True},  # the loss has a second part then
    "llama": {"tie_word_embeddings": True},
}
"""What a family can do to logits and loss beside a product with the head's weights; Granite and Cohere scale anyway."""


def loss_and_gradients(model: torch.nn.Module, **more: object) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    ids = torch.randint(3, 128, (2, 50), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, :20] = -100
    model.zero_grad()
    out = model(ids, labels=labels, use_cache=False, num_items_in_batch=torch.tensor(77), **more)
    out.loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return out.loss.detach(), found, out.logits


def test_the_loss_and_its_gradients_are_those_of_the_family(family: str) -> None:
    model = make_model(family, **SETTINGS.get(family, {})).train()
    expected, gradients, _ = loss_and_gradients(model)
    chunked = ChunkedLoss(model, 16)
    found, others, logits = loss_and_gradients(model, **chunked.arguments(100))
    assert logits.shape[1] == 0
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_frozen_heads_and_mixed_precision_have_the_same_loss() -> None:
    model = make_model("llama", tie_word_embeddings=False).train()
    model.get_output_embeddings().requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        expected, gradients, _ = loss_and_gradients(model)
        found, others, _ = loss_and_gradients(model, **ChunkedLoss(model, 16).arguments(100))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() < 0.02 * gradient.norm(), name


def test_it_equals_torchs_own_chunked_function_where_there_is_one() -> None:
    if not hasattr(functional, "linear_cross_entropy"):
        pytest.skip("torch before 2.13")
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*shape, generator=generator) for shape in ((50, 8), (30, 8)))
    targets = torch.randint(30, (50,), generator=generator)
    targets[::7] = -100
    results = []
    for way in (
        lambda h, w: chunked_cross_entropy(h, targets, lambda part: part @ w.T, [w], 16),
        lambda h, w: functional.linear_cross_entropy(
            h, w, targets, reduction="sum", options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=16)
        ),
    ):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = way(h, w)
        (loss * 0.5).backward()
        results.append((loss.detach(), h.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_nothing_as_large_as_all_logits_exists() -> None:
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = function(*args, **(kwargs or {}))
            largest.append(out.numel() if isinstance(out, Tensor) else 0)
            return out

    model = make_model("llama", vocab_size=2000, tie_word_embeddings=False).train()
    chunked = ChunkedLoss(model, 10)
    with Watch():
        loss_and_gradients(model, **chunked.arguments(100))
    assert max(largest) == 2000 * 32  # the head's own weights; the logits would be 2000 * 100


def test_in_use_the_model_gives_its_logits_and_its_own_loss() -> None:
    model = make_model("llama")
    ids = torch.randint(3, 128, (1, 30))
    with torch.no_grad():
        expected = model(ids, labels=ids)
        ChunkedLoss(model, 10)
        for _ in range(2):
            found = model(ids, labels=ids)
            assert torch.equal(found.logits, expected.logits)
            assert torch.equal(found.loss, expected.loss)
            model.train()  # a forward that asks for logits has them there, too


def test_training_in_chunks_equals_training_without(tmp_path: Path, run_config: Callable[..., RunConfig]) -> None:
    options = {"steps": 3, "micro_batch_tokens": 32}
    whole = train(run_config(**options), tmp_path / "whole").model
    chunked = train(run_config(**options, loss_chunk=9), tmp_path / "chunked").model
    for found, expected in zip(chunked.parameters(), whole.parameters(), strict=True):
        # AdamW's first steps are as long as the learning rate however small a gradient is, rounding included
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)
