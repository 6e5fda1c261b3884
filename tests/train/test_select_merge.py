"""Training under select-and-merge, from nothing: beyond what is dense, the loss falls, and the method is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from longspan import models, surgery
from longspan.records import read_records
from longspan.registry import format_methods
from longspan.train.config import RunConfig
from longspan.train.run import train


def test_a_run_from_scratch_trains_saves_and_reads_on(tmp_path: Path, run_config: Callable[..., RunConfig]) -> None:
    methods = "select_merge(region=2, top=8, merge=2)"
    config = run_config(methods=methods, train_length=64, steps=12, batch_tokens=256, log_every=1)
    train(config, tmp_path, progress=False)
    losses = [record.value for record in read_records(tmp_path) if record.task == "train" and record.metric == "loss"]
    assert losses[-1] < losses[0] - 0.1
    model = models.load(tmp_path / "checkpoint")
    assert format_methods(surgery.current_methods(model)) == methods
    found = model.generate(torch.arange(3, 43)[None], max_new_tokens=9, do_sample=False, pad_token_id=0)
    assert found.shape[1] > 40
