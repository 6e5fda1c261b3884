"""The Hugging Face Trainer on samples of items: validated every epoch, the best weights kept, resumed exactly."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from longspan.errors import TrainingError
from longspan.systems.discrec.model import DiscRec
from longspan.systems.discrec.rows import EpochBatches, Samples
from longspan.systems.discrec.settings import StudySettings
from longspan.train import snapshot
from longspan.train.states import read_value, save_state, writing_folder

STATES, BEST = "state", "checkpoint.best"
VALIDATION_BATCH = 64
"""The validation loss is the mean over batches of this many, the last and smaller one counting as much."""


class RecommendationTrainer(Trainer):
    """Trains one model; stopped anywhere, it goes on to the same weights, bit for bit."""

    def __init__(
        self,
        settings: StudySettings,
        seed: int,
        model: DiscRec,
        learned: Samples,
        validation: Samples,
        out: Path,
        device: torch.device,
        callbacks: list[TrainerCallback],
    ) -> None:
        per_epoch = -(-len(learned) // settings.batch)
        epochs = settings.epochs_begun(per_epoch)
        self.settings, self.out, self.steps = settings, out, settings.total_steps(per_epoch)
        self.batches = EpochBatches(len(learned), settings.batch, epochs, seed)
        self.validation = validation
        self.losses: list[tuple[int, float, float]] = []
        """After so many steps: the mean training loss since the row before, and the validation loss."""
        self._loss_sum, self._loss_steps = torch.zeros((), device=device), 0
        super().__init__(
            model=model,
            args=_arguments(settings, seed, self.steps, out, device),
            train_dataset=learned,
            callbacks=[_EveryEpoch(self), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False  # the loss is the mean over a batch, which is never cut up

    @property
    def exhausted(self) -> bool:
        """Whether the validation loss has not become better for so many epochs that training ends."""
        best = min(range(len(self.losses)), key=lambda row: self.losses[row][2], default=0)
        return len(self.losses) - 1 - best >= self.settings.patience

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be learned."""
        return self.exhausted or (bool(self.losses) and self.losses[-1][0] == self.steps)

    def get_train_dataloader(self) -> DataLoader:
        """All epochs in a row."""
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=default_collate)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with the same decay on all parameters, norms and biases too."""
        settings = self.settings
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass, its loss counted."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._loss_sum += loss.detach()
        self._loss_steps += 1
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Note the losses, keep the weights if they are the best so far, and stop if they have not been for long.

        Raises:
            TrainingError: a loss is no number.
        """
        step = self.state.global_step
        trained, validated = float(self._loss_sum) / max(1, self._loss_steps), self._validation_loss()
        if not math.isfinite(trained + validated):
            raise TrainingError(f"the loss became no number before step {step} of {self.steps}: lower learning_rate")
        self._loss_sum.zero_()
        self._loss_steps = 0
        self.losses.append((step, trained, validated))
        if validated <= min(loss for _, _, loss in self.losses):
            with writing_folder(self.out / BEST) as part:
                self.model.save_pretrained(part)
        metrics = {"eval_loss": validated}
        control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        control.should_training_stop |= self.exhausted  # the very object that the Trainer looks at
        return metrics

    @torch.no_grad()
    def _validation_loss(self) -> float:
        self.model.eval()
        losses = []
        for batch in DataLoader(self.validation, batch_size=VALIDATION_BATCH, collate_fn=default_collate):
            with self.compute_loss_context_manager():
                losses.append(float(self.compute_loss(self.model, self._prepare_inputs(batch))))
        self.model.train()
        return fmean(losses)

    # What follows replaces the Trainer's own saving and loading, which pickles.

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        moments, groups = snapshot.optimizer_values(self.optimizer)
        generators, generator_values = snapshot.generator_values()
        tensors = {"model": snapshot.model_tensors(self.model), "optimizer": moments, "generators": generators}
        values = {
            "optimizer": groups,
            "scheduler": snapshot.scheduler_values(self.lr_scheduler),
            "generators": generator_values,
            "trainer_state": snapshot.trainer_values(self.state),
            "progress": {"losses": self.losses, "sum": float(self._loss_sum), "steps": self._loss_steps},
        }
        save_state(self.out / STATES, self.state.global_step, tensors, values)

    def read_progress(self, state: Path) -> None:
        """Take up the losses that a state tells of."""
        progress = read_value(state, "progress")
        self.losses = [tuple(row) for row in progress["losses"]]
        self._loss_sum.fill_(progress["sum"])
        self._loss_steps = progress["steps"]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        snapshot.restore_model(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            snapshot.restore_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Mixed precision is bfloat16, which needs no loss scaling."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            snapshot.restore_generators(Path(checkpoint))


class Progress(TrainerCallback):
    """Steps done and left, on stderr."""

    def __init__(self, name: str, *, shown: bool) -> None:
        self.name, self.shown = name, shown
        self.bar: tqdm | None = None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        interval = 0.2 if sys.stderr.isatty() else 30  # in a log file a line now and then is enough
        self.bar = tqdm(
            total=args.max_steps,
            initial=state.global_step,
            desc=self.name,
            unit="step",
            disable=not self.shown,
            mininterval=interval,
        )

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.bar is not None
        self.bar.update(state.global_step - self.bar.n)

    def close(self) -> None:
        """Leave the bar on the screen as it is."""
        if self.bar is not None:
            self.bar.close()


class _EveryEpoch(TrainerCallback):
    """Validates and saves at the end of each epoch, and saves as often as the settings say."""

    def __init__(self, trainer: RecommendationTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        step, save_every = state.global_step, self.trainer.settings.save_every
        control.should_evaluate = step % self.trainer.batches.per_epoch == 0 or step == self.trainer.steps
        if control.should_evaluate or (save_every is not None and step % save_every == 0):
            control.should_save = True


def _arguments(settings: StudySettings, seed: int, steps: int, out: Path, device: torch.device) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(out / STATES),
        per_device_train_batch_size=settings.batch,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup * steps),
        max_grad_norm=0,  # no clipping
        bf16=settings.dtype == "bfloat16",
        use_cpu=device.type == "cpu",
        seed=seed,
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # a second GPU would double the batch
    return arguments
