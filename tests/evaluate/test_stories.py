"""A real checkpoint on a real book: perplexity agrees with a loop that shares no code with the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from longspan.evaluate import perplexity
from longspan.models import load_model, load_tokenizer

LENGTH, STRIDE, TOKENS = 256, 64, 2000


def test_perplexity_of_stories260k_on_a_book_agrees_with_an_independent_loop_to_4_digits(
    stories: Path, data_dir: Callable[[str], Path]
) -> None:
    book = sorted((data_dir("books") / "validation").glob("*.txt"))[0].read_text(encoding="utf-8")
    model = load_model(str(stories), device="cpu", dtype="float32")
    tokenizer = load_tokenizer(str(stories))
    ids = torch.tensor(tokenizer(book[:10_000], add_special_tokens=False)["input_ids"])[:TOKENS]
    assert len(ids) == TOKENS
    record, nll = perplexity(model, ids, lengths=[LENGTH], stride=STRIDE, progress=False)

    # for each target: the first window whose body holds it; one full forward a window
    losses = []
    logits_of: dict[int, torch.Tensor] = {}
    for index in range(LENGTH, TOKENS):
        start = max(0, math.ceil((index - (LENGTH - 2)) / STRIDE) * STRIDE)
        start = min(start, TOKENS - (LENGTH - 1))
        if start not in logits_of:
            row = [tokenizer.bos_token_id, *ids[start : start + LENGTH - 1].tolist()]
            with torch.no_grad():
                logits_of[start] = model(torch.tensor([row])).logits[0].double()
        logits = logits_of[start][index - start]
        losses.append((torch.logsumexp(logits, dim=0) - logits[ids[index]]).item())
    expected = math.exp(sum(losses) / len(losses))
    assert record.value == pytest.approx(expected, rel=5e-5)
    assert nll.n == len(losses) == TOKENS - LENGTH
    assert 1 < expected < 512  # better than a guess
