"""The Hugging Face Trainer on sentence pairs: batches of about one length, resumed exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, TrainingArguments

from longspan.errors import TrainingError
from longspan.systems.xl_pe.config import StudySettings
from longspan.systems.xl_pe.corpus import PadRows, Row
from longspan.systems.xl_pe.model import XlPeModel
from longspan.train.batches import EpochBatches
from longspan.train.exact import ExactTrainer


class Rows(Dataset[Row]):
    """Rows as the Trainer takes them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Row:
        return self.rows[number]


class TranslationTrainer(ExactTrainer):
    """Trains one arm; stopped anywhere, it goes on to the same weights, bit for bit."""

    def __init__(
        self,
        model: XlPeModel,
        rows: dict[str, list[Row]],
        settings: StudySettings,
        seed: int,
        states: Path,
        device: torch.device,
    ) -> None:
        training, learned = settings.training, rows["train"]
        self.states = states
        epochs = math.ceil(training.steps * training.batch_sentences / len(learned)) + 1  # the last may be cut short
        lengths = [len(row["input_ids"]) for row in learned]
        self.batches = EpochBatches(len(learned), training.batch_sentences, epochs, seed, lengths)
        self._loss_sum = torch.zeros((), device=device)
        super().__init__(
            model=model,
            args=_arguments(settings, seed, states, device),
            train_dataset=Rows(learned),
            eval_dataset=Rows(rows["dev"]),
            data_collator=PadRows(model.config.pad_token_id),
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        """All epochs in a row."""
        pinned = self.args.dataloader_pin_memory
        return DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator, pin_memory=pinned
        )

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass, its loss counted."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._loss_sum += loss.detach()
        return loss

    def final_losses(self) -> dict[str, float]:
        """Nats a sub-word, label-smoothed: the mean over training, and on the dev pairs at its end."""
        return {"train": self._mean_loss(), "dev": self.evaluate()["eval_loss"]}

    def progress(self) -> dict[str, Any]:
        """The sum of the losses; a state is kept only while it is a number.

        Raises:
            TrainingError: it is none.
        """
        self._mean_loss()
        return {"sum": float(self._loss_sum)}

    def take_up(self, progress: dict[str, Any]) -> None:
        """Go on from the sum that a state tells of."""
        self._loss_sum.fill_(progress["sum"])

    def _mean_loss(self) -> float:
        loss = float(self._loss_sum) / max(1, self.state.global_step)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss}: lower training.learning_rate or lengthen training.warmup")
        return loss


def _arguments(settings: StudySettings, seed: int, states: Path, device: torch.device) -> TrainingArguments:
    training = settings.training
    arguments = TrainingArguments(
        output_dir=str(states),
        max_steps=training.steps,
        per_device_train_batch_size=training.batch_sentences,
        per_device_eval_batch_size=training.batch_sentences,
        learning_rate=training.learning_rate,
        lr_scheduler_type="inverse_sqrt",
        warmup_steps=training.warmup,
        adam_beta2=0.98,
        label_smoothing_factor=training.label_smoothing,
        seed=seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
        save_strategy="steps",
        save_steps=training.save_every,
        logging_steps=training.log_every,
        report_to="none",
        disable_tqdm=True,  # the Trainer's own bar writes to stdout, where results stand
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # a second GPU would double the batch
    return arguments
