"""A training loop for one stage: resumable inside, and the same whether it was stopped or not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from longspan.errors import TrainingError
from longspan.systems.hprompt_cpt.config import StageSettings
from longspan.systems.hprompt_cpt.seeds import number
from longspan.train import snapshot, states
from longspan.train.optimizer_settings import OptimizerSettings

Terms = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a loop tells after some steps."""

    step: int
    losses: dict[str, float]
    """Mean of each term over the steps since it told last."""


class Loop:
    """AdamW on what learns in `learner`. Nothing random outlives a step: dropout is seeded by the step, too."""

    def __init__(self, learner: nn.Module, settings: StageSettings, steps: int, folder: Path, seed: int) -> None:
        self.learner, self.settings, self.steps, self.folder, self.seed = learner, settings, steps, folder, seed
        self.optimizer, self.scheduler = optimizer_for(learner, settings.optimizer, steps)
        self.seconds = 0.0

    def run(
        self, terms: Callable[[int], Terms], on_progress: Callable[[Progress], Any] = lambda progress: None
    ) -> None:
        """All steps that are not done; `terms` gives those of a step, weighted.

        Raises:
            TrainingError: the loss is no number; the last saved state is kept.
        """
        self.learner.train()
        first, sums = self._restore()
        for step in range(first, self.steps):
            began = time.monotonic()
            torch.manual_seed(number(self.seed, "step", step))
            found = terms(step)
            train_step(self.optimizer, self.scheduler, found, self.settings.optimizer.clip)
            sums = {name: sums.get(name, 0.0) + value.item() for name, value in found.items()}
            if not all(map(math.isfinite, sums.values())):
                raise TrainingError(
                    f"the loss became no number at step {step + 1} of {self.steps} in {self.folder.parent}:"
                    " lower pretrain.optimizer.learning_rate or the weights of the arm's terms"
                )
            self.seconds += time.monotonic() - began
            done = step + 1
            if done % self.settings.log_every == 0 or done == self.steps:
                since = (
                    self.settings.log_every if done % self.settings.log_every == 0 else done % self.settings.log_every
                )
                on_progress(Progress(done, {name: value / since for name, value in sums.items()}))
                sums = {}
            if done % self.settings.save_every == 0 and done < self.steps:
                self._save(done, sums)
        self.learner.eval()

    def first_step(self) -> int:
        """The step that a run goes on from."""
        state, _ = states.newest_state(self.folder)
        return 0 if state is None else states.state_step(state)

    def _save(self, step: int, sums: dict[str, float]) -> None:
        moments, groups = snapshot.optimizer_values(self.optimizer)
        tensors = {"model": snapshot.model_tensors(self.learner, learning=True), "optimizer": moments}
        values = {
            "optimizer": groups,
            "scheduler": snapshot.scheduler_values(self.scheduler),
            "progress": {"sums": sums, "seconds": self.seconds},
        }
        states.save_state(self.folder, step, tensors, values)

    def _restore(self) -> tuple[int, dict[str, float]]:
        state, _ = states.newest_state(self.folder)
        states.drop_damaged(self.folder, state)
        if state is None:
            return 0, {}
        snapshot.restore_model(self.learner, state, learning=True)
        snapshot.restore_optimizer(self.optimizer, self.scheduler, state)
        progress = states.read_value(state, "progress")
        self.seconds = progress["seconds"]
        return states.state_step(state), progress["sums"]


def optimizer_for(learner: nn.Module, settings: OptimizerSettings, steps: int) -> tuple[AdamW, LambdaLR]:
    """AdamW on all weights that learn; those of one dimension do not decay."""
    weights = [weight for weight in learner.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, betas=settings.betas)
    return optimizer, LambdaLR(optimizer, lambda step: settings.share(step, steps))


def train_step(optimizer: AdamW, scheduler: LambdaLR, terms: Terms, clip: float) -> None:
    """One step down the sum of `terms`."""
    optimizer.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    torch.nn.utils.clip_grad_norm_(weights, clip)
    optimizer.step()
    scheduler.step()
