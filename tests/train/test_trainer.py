from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import get_scheduler

from longspan.train.arguments import learning_rate_share
from longspan.train.config import RunConfig
from longspan.train.sizes import build_model, find_size
from longspan.train.trainer import RunTrainer

CPU = torch.device("cpu")


class Rows(Dataset[dict[str, Tensor]]):
    """Random windows; row i predicts only its last `1 + 4 i mod 15` tokens, so rows weigh differently."""

    def __init__(self, count: int) -> None:
        self.ids = torch.randint(300, (count, 16), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        labels = self.ids[index].clone()
        labels[: 15 - 4 * index % 15] = -100
        return {"input_ids": self.ids[index], "labels": labels}


def train(config: RunConfig, out: Path) -> RunTrainer:
    assert config.model.size is not None
    model = build_model("llama", find_size(config.model.size), 300, 16, 1e4, "rope", seed=config.seed)
    trainer = RunTrainer(config=config, model=model, dataset=Rows(64), out=out, device=CPU, callbacks=[])
    trainer.train()
    return trainer


def test_training_equals_a_plain_loop_with_torch_adamw(tmp_path: Path, run_config: Callable[..., RunConfig]) -> None:
    config = run_config(steps=5, optimizer={"warmup": 0.4, "learning_rate": 0.01, "weight_decay": 0.5, "clip": 0.1})
    trained = train(config, tmp_path).model

    assert config.model.size is not None
    model = build_model("llama", find_size(config.model.size), 300, 16, 1e4, "rope", seed=0)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * [0.5, 1.0, 1.0, 0.775, 0.325][step]  # cosine from 1 to 0.1 in three steps
        rows = [Rows(64)[4 * step + index] for index in range(4)]
        ids, labels = (torch.stack([row[key] for row in rows]) for key in ("input_ids", "labels"))
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    for (name, expected), found in zip(model.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_micro_batches_give_the_token_mean_of_the_whole_batch(
    tmp_path: Path, run_config: Callable[..., RunConfig]
) -> None:
    whole = train(run_config(steps=3, micro_batch_tokens=64), tmp_path / "whole")
    split = train(run_config(steps=3, micro_batch_tokens=16), tmp_path / "split")
    assert split.args.gradient_accumulation_steps == 4
    for found, expected in zip(split.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    losses = [trainer.state.log_history[0]["loss"] for trainer in (whole, split)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(("schedule", "name"), [("cosine", "cosine"), ("linear", "linear"), ("constant", "constant")])
def test_schedules_without_a_floor_follow_those_of_transformers(
    run_config: Callable[..., RunConfig], schedule: str, name: str
) -> None:
    optimizer = {"schedule": schedule, "warmup": 0.0}
    config = run_config(steps=50, optimizer=optimizer if schedule == "constant" else {**optimizer, "final_share": 0})
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(name, dummy, num_warmup_steps=0, num_training_steps=50)
    for step in range(50):
        assert learning_rate_share(step, config) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        dummy.step()
        theirs.step()


def test_warmup_rises_from_the_first_step_and_the_end_is_the_final_share(
    run_config: Callable[..., RunConfig],
) -> None:
    config = run_config(steps=100, optimizer={"warmup": 0.04, "final_share": 0.2})
    assert [learning_rate_share(step, config) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate_share(52, config) == pytest.approx(0.2 + 0.8 * 0.5)  # half way down the cosine
    assert learning_rate_share(99, config) == pytest.approx(0.2, abs=1e-3)
    assert learning_rate_share(100, config) == pytest.approx(0.2)
    assert math.isfinite(learning_rate_share(0, run_config(steps=1, optimizer={"warmup": 1.0})))


@pytest.mark.slow  # half a minute of the compiler's; that layers can be traced is tested beside surgery
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a processor needs the C++ compiler g++")
def test_compiled_training_equals_the_plain_one(tmp_path: Path, run_config: Callable[..., RunConfig]) -> None:
    plain = train(run_config(steps=3), tmp_path / "plain").model
    compiled = train(run_config(steps=3, compile=True), tmp_path / "compiled").model
    assert all(layer._compiled_call_impl for layer in compiled.base_model.layers)
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in plain.named_parameters()]
    for found, expected in zip(compiled.parameters(), plain.parameters(), strict=True):
        # AdamW's first steps are as long as the learning rate however small a gradient is, rounding included
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)


def test_loader_processes_leave_the_result_as_it_is(tmp_path: Path, run_config: Callable[..., RunConfig]) -> None:
    alone = train(run_config(steps=3), tmp_path / "alone").model
    helped = train(run_config(steps=3, loader_workers=2), tmp_path / "helped").model
    for found, expected in zip(helped.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
