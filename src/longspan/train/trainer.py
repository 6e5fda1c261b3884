"""The Hugging Face Trainer with exact resuming: states as safetensors and JSON, a loss that must stay a number."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from longspan.errors import StorageError, TrainingError
from longspan.train import snapshot
from longspan.train.config import RunConfig
from longspan.train.distill import Teacher
from longspan.train.states import read_value, save_state, saved_states, state_step

STATE_FOLDER = "state"


def learning_rate_share(step: int, config: RunConfig) -> float:
    """The learning rate of a step (counted from 0) as a share of the highest."""
    optimizer, steps = config.optimizer, config.total_steps
    warmup = round(optimizer.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    final = 1.0 if optimizer.final_share is None else optimizer.final_share
    if optimizer.schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
    return 1 - (1 - final) * done  # linear; constant has final = 1


def training_arguments(config: RunConfig, out: Path, device: torch.device) -> TrainingArguments:
    """The Trainer's arguments for a run: one device, data in order, no evaluation, no reports, no bar of its own."""
    arguments = TrainingArguments(
        output_dir=str(out / STATE_FOLDER),
        per_device_train_batch_size=config.micro_batch_rows,
        gradient_accumulation_steps=config.accumulation,
        max_steps=config.total_steps,
        learning_rate=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
        adam_beta1=config.optimizer.betas[0],
        adam_beta2=config.optimizer.betas[1],
        max_grad_norm=config.optimizer.clip,
        optim="adamw_torch_fused",
        bf16=config.dtype == "bfloat16",
        use_cpu=device.type == "cpu",
        seed=config.seed,
        train_sampling_strategy="sequential",
        dataloader_num_workers=config.loader_workers,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_every,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # a second GPU would double the batch
    return arguments


def compile_layers(model: PreTrainedModel) -> None:
    """Compile every decoder layer in place: they share one graph, which is made once instead of once a layer."""
    for layer in model.base_model.layers:
        layer.compile()


class RunTrainer(Trainer):
    """Trains one model as `config` says; stopped anywhere, it goes on to the same weights, bit for bit."""

    def __init__(
        self,
        *,
        config: RunConfig,
        model: PreTrainedModel,
        dataset: Dataset[dict[str, Tensor]],
        out: Path,
        device: torch.device,
        callbacks: list[TrainerCallback],
        teacher: Teacher | None = None,
    ) -> None:
        self.config, self.teacher = config, teacher
        self.states = out / STATE_FOLDER
        self._progress: dict[str, Any] | None = None
        self._before_step: _PassState | None = None
        self._started = time.monotonic()
        self._seconds_before = 0.0
        use_cache = model.config.use_cache
        super().__init__(
            model=model,
            args=training_arguments(config, out, device),
            train_dataset=dataset,
            data_collator=stack_rows,
            callbacks=[_Begin(self), *callbacks],
        )
        # the Trainer turns this off in the config, from where it would get into the saved model
        model.config.use_cache = use_cache
        self.remove_callback(PrinterCallback)
        if config.compile:
            compile_layers(model)
        exact = self.model_accepts_loss_kwargs and self._loss_shifts_labels
        assert exact, "the loss would be averaged per forward pass, not over the batch"

    @property
    def seconds(self) -> float:
        """Time spent in training, that of earlier processes included."""
        return self._seconds_before + time.monotonic() - self._started

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The learning rate as a function of the step alone."""
        scheduler = LambdaLR(optimizer or self.optimizer, lambda step: learning_rate_share(step, self.config))
        self.lr_scheduler = scheduler
        self._created_lr_scheduler = True
        return scheduler

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], **kwargs: Any) -> Any:
        """As the Trainer computes it, without a cache of keys and values; mixed with the teacher's if there is one."""
        inputs = {**inputs, "use_cache": False}
        if self.teacher is None:
            return super().compute_loss(model, inputs, **kwargs)
        loss, outputs = super().compute_loss(model, inputs, **{**kwargs, "return_outputs": True})
        with self.accelerator.autocast():
            return self.teacher.loss(
                loss, outputs.logits, inputs["input_ids"], inputs["labels"], kwargs["num_items_in_batch"]
            )

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass.

        Raises:
            TrainingError: the loss is not a number; the weights have not been touched, and their state is saved.
        """
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise self._diverged("loss", float(loss))
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not math.isfinite(norm):
            raise self._diverged("gradient's norm", float(norm))
        return norm

    def _diverged(self, what: str, value: float) -> TrainingError:
        """The error for a number that went wrong in the step in progress, before it touched the weights."""
        self._keep_good_state()
        return self._not_finite(what, value, self.state.global_step + 1)

    def _not_finite(self, what: str, value: float, step: int) -> TrainingError:
        kept = saved_states(self.states)
        state = f"{kept[-1]} keeps the state after step {state_step(kept[-1])}" if kept else "no state was saved before"
        return TrainingError(
            f"the {what} became {value} at step {step} of {self.config.total_steps}; {state}:"
            " train again elsewhere with a lower optimizer.learning_rate or a longer optimizer.warmup"
        )

    def _keep_good_state(self) -> None:
        """Save the state as it was before the step in progress, unless it is there or no longer good."""
        step, before, weights = self.state.global_step, self._before_step, snapshot.model_tensors(self.model)
        if step == 0 or before is None or not _finite(weights):
            return
        if step not in map(state_step, saved_states(self.states)):
            with contextlib.suppress(StorageError):  # what went wrong first is what the user must hear of
                self._save_state(weights, before)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: it would walk over all parameters at every step."""
        return 0

    # What follows replaces the Trainer's own saving and loading, which pickles.

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        weights = snapshot.model_tensors(self.model)
        if not _finite(weights):
            raise self._not_finite("largest weight", math.nan, self.state.global_step)
        self._save_state(weights, self._changing())

    def _changing(self) -> _PassState:
        return _PassState(self._tr_loss.clone(), *snapshot.generator_values())

    def _save_state(self, weights: dict[str, Tensor], now: _PassState) -> None:
        moments, groups = snapshot.optimizer_values(self.optimizer)
        tensors = {"model": weights, "optimizer": moments, "generators": now.generators}
        values = {
            "optimizer": groups,
            "scheduler": snapshot.scheduler_values(self.lr_scheduler),
            "generators": now.generator_values,
            "trainer_state": snapshot.trainer_values(self.state),
            "progress": {
                "loss_sum": now.loss_sum.item(),
                "last_logged": self._globalstep_last_logged,
                "total_loss": self._total_loss_scalar,
                "seconds": self.seconds,
            },
        }
        save_state(self.states, self.state.global_step, tensors, values)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        snapshot.restore_model(self.model, Path(resume_from_checkpoint))
        self._progress = read_value(Path(resume_from_checkpoint), "progress")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            snapshot.restore_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Mixed precision is bfloat16, which needs no loss scaling."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            snapshot.restore_generators(Path(checkpoint))

    def begin(self) -> None:
        """Take up the running mean of the loss where it was, and the saving interval that holds now."""
        self.state.save_steps = self.config.save_every
        self._started = time.monotonic()
        if self._progress is None:
            return
        self._tr_loss = torch.tensor(self._progress["loss_sum"], device=self.args.device)
        self._globalstep_last_logged = self._progress["last_logged"]
        self._total_loss_scalar = self._progress["total_loss"]
        self._seconds_before = self._progress["seconds"]

    def begin_step(self) -> None:
        """Note what a step changes before it touches the weights, so that the state before it can still be saved."""
        self._before_step = self._changing()


@dataclass(frozen=True, slots=True)
class _PassState:
    """What a forward pass changes."""

    loss_sum: Tensor
    generators: dict[str, Tensor]
    generator_values: dict[str, Any]


class _Begin(TrainerCallback):
    """Calls the trainer when it has reset its counts and before the first step, and before each step."""

    def __init__(self, trainer: RunTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_step()


def _finite(tensors: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def stack_rows(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Windows of one length as a batch: each key [rows, length]."""
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
