"""An evaluation that was killed goes on where it stopped, and ends with the same records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from longspan.evaluate import perplexity, position_curve
from longspan.records import Record, append_records, read_records

COLUMNS = {"run": "r", "method": "rope", "model_name": "tiny", "train_length": 64, "progress": False}


class KilledError(Exception):
    """Stands for a kill between two cells."""


def test_a_killed_evaluation_goes_on_to_the_same_records(
    tiny_model: Callable[[str], PreTrainedModel], tmp_path: Path
) -> None:
    model, path = tiny_model("llama"), tmp_path / "records.jsonl"
    ids = torch.arange(100) % 120 + 3
    whole = perplexity(model, ids, lengths=[8, 16, 32], **COLUMNS)

    def append_then_die(records: list[Record]) -> None:
        append_records(path, records)
        if records[0].length == 16:
            raise KilledError

    with pytest.raises(KilledError):
        perplexity(model, ids, lengths=[8, 16, 32], on_records=append_then_die, **COLUMNS)
    lengths_run: list[int] = []
    model.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: lengths_run.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    found = read_records(path)
    resumed = perplexity(
        model, ids, lengths=[8, 16, 32], done=found, on_records=partial(append_records, path), **COLUMNS
    )
    assert set(lengths_run) == {32}
    assert [replace(r, when="") for r in resumed] == [replace(r, when="") for r in whole]
    assert [replace(r, when="") for r in read_records(path)] == [replace(r, when="") for r in whole]


@pytest.mark.parametrize(
    "other", [{"run": "s"}, {"method": "yarn"}, {"model_name": "b"}, {"train_length": 32}, {"seed": 1}]
)
def test_records_of_another_arm_do_not_count_as_done(tiny_model: Callable[[str], PreTrainedModel], other: dict) -> None:
    model, ids = tiny_model("llama"), torch.arange(60) + 3
    done = perplexity(model, ids, lengths=[8], **COLUMNS)
    written: list[Record] = []
    perplexity(model, ids, lengths=[8], done=done, on_records=written.extend, **{**COLUMNS, **other})
    assert [record.metric for record in written] == ["perplexity", "nll"]


def test_a_cell_that_misses_a_record_is_measured_again(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model, ids = tiny_model("llama"), torch.arange(60) + 3
    done = position_curve(model, ids, length=48, **COLUMNS)
    written: list[Record] = []
    position_curve(model, ids, length=48, done=done, on_records=written.extend, **COLUMNS)
    assert written == []
    position_curve(model, ids, length=48, done=done[:-1], on_records=written.extend, **COLUMNS)
    assert len(written) == len(done)


def test_a_null_is_measured_again(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model, ids = tiny_model("llama"), torch.arange(60) + 3
    sound = model.model.norm.weight.data.clone()
    model.model.norm.weight.data.fill_(float("nan"))
    done = perplexity(model, ids, lengths=[8], **COLUMNS)
    assert [record.value for record in done] == [None, None]
    model.model.norm.weight.data.copy_(sound)
    again = perplexity(model, ids, lengths=[8], done=done, **COLUMNS)
    assert all(record.value is not None for record in again)
