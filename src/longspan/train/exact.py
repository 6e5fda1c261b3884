"""The Hugging Face Trainer with states of our own: safetensors and JSON, from which a run goes on bit for bit."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm
from transformers import Trainer

from longspan.train import snapshot
from longspan.train.callbacks import Interruption, ProgressBar
from longspan.train.states import drop_damaged, newest_state, read_value, save_state, state_step


class ExactTrainer(Trainer):
    """Replaces the Trainer's own saving and loading, which pickles. Subclasses set `states` before they train."""

    states: Path
    """Folder of the saved states."""
    learning_alone = False
    """Whether a state keeps the weights that are learning and no others."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be learned."""
        return self.state.global_step >= self.args.max_steps

    def progress(self) -> dict[str, Any]:
        """What a state keeps beside weights, optimizer, schedule and generators, as JSON can write it."""
        return {}

    def take_up(self, progress: dict[str, Any]) -> None:
        """Put back what `progress` gave."""

    def weights(self) -> dict[str, Tensor]:
        """What a state keeps of the model."""
        return snapshot.model_tensors(self.model, learning=self.learning_alone)

    def state_parts(
        self,
        weights: Mapping[str, Tensor],
        generators: Mapping[str, Tensor],
        generator_values: Mapping[str, Any],
        progress: Mapping[str, Any],
    ) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """Tensors and values of a state, as `save_state` takes them."""
        moments, groups = snapshot.optimizer_values(self.optimizer)
        values = {
            "optimizer": groups,
            "scheduler": snapshot.scheduler_values(self.lr_scheduler),
            "generators": generator_values,
            "trainer_state": snapshot.trainer_values(self.state),
            "progress": progress,
        }
        return {"model": weights, "optimizer": moments, "generators": generators}, values

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: it would walk over all parameters at every step."""
        return 0

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        parts = self.state_parts(self.weights(), *snapshot.generator_values(), self.progress())
        save_state(self.states, self.state.global_step, *parts)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = Path(resume_from_checkpoint)
        snapshot.restore_model(self.model, state, learning=self.learning_alone)
        self.take_up(read_value(state, "progress"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            snapshot.restore_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Mixed precision is bfloat16, which needs no loss scaling."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            snapshot.restore_generators(Path(checkpoint))


def train_on(trainer: ExactTrainer, name: str, *, progress: bool) -> None:
    """Train to the end, from the newest whole state on if there is one.

    Args:
        name: what the bar on stderr calls the run.
        progress: whether there is a bar, and a line on each state that is damaged and passed over.

    Raises:
        KeyboardInterrupt: after Ctrl-C; the state is saved first.
    """
    state, warnings = newest_state(trainer.states)
    for warning in warnings if progress else ():
        tqdm.write(warning, file=sys.stderr)
    drop_damaged(trainer.states, state)
    if state is not None:
        trainer.state.global_step = state_step(state)
        trainer.take_up(read_value(state, "progress"))
    if trainer.finished:  # it was stopped between its last step and what its owner makes of it
        assert state is not None
        snapshot.restore_model(trainer.model, state, learning=trainer.learning_alone)
        return
    bar, interruption = ProgressBar(name, shown=progress), Interruption()
    for callback in (bar, interruption):
        trainer.add_callback(callback)
    with contextlib.closing(bar), interruption:
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    if not trainer.finished:
        assert interruption.asked
        raise KeyboardInterrupt(f"interrupted; {trainer.states} keeps the state: run the same again to go on")
