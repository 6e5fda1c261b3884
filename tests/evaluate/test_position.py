"""The position curve against full logits, and its buckets against the protocol."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from longspan.errors import DataError, LengthError
from longspan.evaluate import position_curve
from longspan.evaluate.position import position_buckets

COLUMNS = {"run": "r", "method": "rope", "model_name": "tiny", "progress": False}


def test_buckets_are_log_spaced_below_the_training_length_and_an_eighth_of_it_above() -> None:
    buckets = position_buckets(512, 256)
    assert buckets[0] == (1, 4)
    assert buckets[-8:] == [(256 + 32 * i, 288 + 32 * i) for i in range(8)]
    below = [last for _, last in buckets if last <= 256]
    assert below == [4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256]


@pytest.mark.parametrize(("length", "train_length"), [(512, 256), (100, 256), (1000, 96), (2, 64), (65, 64), (64, 64)])
def test_buckets_hold_every_predicted_position_once(length: int, train_length: int) -> None:
    positions = [p for first, last in position_buckets(length, train_length) for p in range(first, last)]
    assert positions == list(range(1, length))


def test_it_equals_the_mean_of_full_logits(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model = tiny_model("llama")
    ids = [torch.randint(3, 128, (size,), generator=torch.Generator().manual_seed(size)) for size in (99, 130, 50)]
    records = position_curve(model, ids, length=100, train_length=48, batch_size=1, **COLUMNS)
    losses = []
    for document in ids[:2]:
        row = torch.cat([torch.tensor([1]), document[:99]])
        with torch.no_grad():
            logits = model(row[None]).logits[0].double()
        losses.append(-torch.log_softmax(logits, dim=-1)[torch.arange(99), row[1:]])
    for record, (first, last) in zip(records, position_buckets(100, 48), strict=True):
        expected = torch.stack(losses)[:, first - 1 : last - 1].mean().item()
        assert record.value == pytest.approx(expected, abs=1e-5)
        assert record.n == 2 * (last - first)
        assert record.depth == (first + last) / 200
        assert (record.task, record.metric, record.length, record.train_length) == ("position", "nll", 100, 48)
        assert record.low <= record.value <= record.high


def test_bad_lengths_are_refused(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model = tiny_model("llama")
    with pytest.raises(DataError, match="the longest has 40 tokens and 99 are needed"):
        position_curve(model, torch.arange(40) + 3, length=100, train_length=48, **COLUMNS)
    with pytest.raises(LengthError, match="too short"):
        position_curve(model, torch.arange(40) + 3, length=1, train_length=48, **COLUMNS)
