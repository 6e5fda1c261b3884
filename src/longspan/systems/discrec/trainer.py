"""The Hugging Face Trainer on samples of items: validated every epoch, the best weights kept, resumed exactly."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from longspan.errors import TrainingError
from longspan.systems.discrec.model import DiscRec
from longspan.systems.discrec.rows import Samples
from longspan.systems.discrec.settings import StudySettings
from longspan.train.batches import EpochBatches
from longspan.train.exact import ExactTrainer
from longspan.train.states import writing_folder

STATES, BEST = "state", "checkpoint.best"
VALIDATION_BATCH = 64
"""The validation loss is the mean over batches of this many, the last and smaller one counting as much."""


class RecommendationTrainer(ExactTrainer):
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
    ) -> None:
        per_epoch = -(-len(learned) // settings.batch)
        epochs = settings.epochs_begun(per_epoch)
        self.settings, self.out, self.steps = settings, out, settings.total_steps(per_epoch)
        self.states = out / STATES
        self.batches = EpochBatches(len(learned), settings.batch, epochs, seed)
        self.learned, self.validation = learned, validation
        self.losses: list[tuple[int, float, float]] = []
        """After so many steps: the mean training loss since the row before, and the validation loss."""
        self._loss_sum, self._loss_steps = torch.zeros((), device=device), 0
        super().__init__(
            model=model,
            args=_arguments(settings, seed, self.steps, out, device),
            train_dataset=learned,
            callbacks=[_EveryEpoch(self)],
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
        return self.learned.loader(batch_sampler=self.batches, pin_memory=self.args.device.type == "cuda")

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
        for batch in self.validation.loader(batch_size=VALIDATION_BATCH):
            with self.compute_loss_context_manager():
                losses.append(self.compute_loss(self.model, self._prepare_inputs(batch)))
        self.model.train()
        return fmean(torch.stack(losses).tolist())  # read at the end: a GPU need not wait for each

    def progress(self) -> dict[str, Any]:
        """The losses so far."""
        return {"losses": self.losses, "sum": float(self._loss_sum), "steps": self._loss_steps}

    def take_up(self, progress: dict[str, Any]) -> None:
        """Go on from the losses that a state tells of."""
        self.losses = [tuple(row) for row in progress["losses"]]
        self._loss_sum.fill_(progress["sum"])
        self._loss_steps = progress["steps"]


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
