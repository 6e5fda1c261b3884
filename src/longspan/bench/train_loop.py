"""What the training loop costs: a run's trainer against a bare PyTorch loop on the same model, data and optimizer."""

from __future__ import annotations

import copy
import gc
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from longspan.bench.paired import ratio, take_turns
from longspan.bench.settings import BenchSettings
from longspan.records import Record
from longspan.train.config import RunConfig
from longspan.train.sizes import build_model
from longspan.train.trainer import RunTrainer, learning_rate_share

LENGTH, BATCH_TOKENS, VOCABULARY = 512, 4096, 1024
STEPS = 20
"""Optimizer steps of one turn: enough that what a run does once at its ends does not count."""
TURNS = 3
"""At the least, one of warm-up not counted; a turn takes seconds."""
OURS, BARE = "longspan", "bare loop"
ARMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "accumulation": {"micro_batch_tokens": BATCH_TOKENS // 4},
    "bfloat16": {"dtype": "bfloat16"},
}


class _Rows(Dataset[dict[str, Tensor]]):
    """Random windows, made before anything is timed."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(VOCABULARY, (STEPS * BATCH_TOKENS // LENGTH, LENGTH), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def loop_costs(settings: BenchSettings) -> Iterator[Record]:
    """Tokens a second of our loop over those of the bare one."""
    size, device = "30m" if settings.on_gpu else "1m", settings.device
    for arm, changes in ARMS.items():
        values = {
            "name": arm, "model": {"size": size}, "train_length": LENGTH, "data": {"text": "none"}, "steps": STEPS,
            "batch_tokens": BATCH_TOKENS, "save_every": 10**6, **changes,
        }  # fmt: skip
        config = RunConfig.parse(values, "train loop")
        model = build_model("llama", size, VOCABULARY, LENGTH, 10000.0, "rope", 0).to(device)
        with tempfile.TemporaryDirectory() as folder:
            calls = {OURS: _ours(config, model, device, Path(folder)), BARE: _bare(config, model, device)}
            times = take_turns(
                calls, seconds=settings.seconds, least=TURNS, label=f"train loop {arm}", progress=settings.progress
            )
        found = ratio(times, BARE, OURS)  # of times, which is that of tokens a second the other way round
        yield Record(
            run="benchmarks", method=f"{OURS} / {BARE}", model=f"llama-{size}",
            task=f"train loop, {arm}, tokens a second",
            metric="ratio", value=found.median, low=found.low, high=found.high, n=found.n, length=LENGTH,
        )  # fmt: skip


def _ours(config: RunConfig, template: PreTrainedModel, device: torch.device, folder: Path) -> Callable[[], object]:
    trainer = RunTrainer(
        config=config, model=copy.deepcopy(template), dataset=_Rows(), out=folder, device=device, callbacks=[]
    )
    trainer._save_checkpoint = lambda *_: None  # type: ignore[method-assign]  # the bare loop saves nothing
    gc.freeze()  # a run collects garbage once, at its start, however long it is
    return trainer.train


def _bare(config: RunConfig, template: PreTrainedModel, device: torch.device) -> Callable[[], object]:
    rows = _Rows()

    model = copy.deepcopy(template).train()

    def run() -> None:
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.optimizer.learning_rate, betas=config.optimizer.betas, fused=True
        )
        batches = rows.ids.view(STEPS, config.accumulation, config.micro_batch_rows, LENGTH)
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = config.optimizer.learning_rate * learning_rate_share(step, config)
            for ids in batch.to(device, non_blocking=True):
                with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
                    loss = model(ids, labels=ids, use_cache=False).loss / config.accumulation
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
            optimizer.step()
            optimizer.zero_grad()
        loss.item()  # waits for the accelerator

    return run
