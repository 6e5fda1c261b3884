"""The Hugging Face Trainer with exact resuming: states as safetensors and JSON, a loss that must stay a number."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from longspan.data.positions import IGNORED
from longspan.errors import StorageError, TrainingError
from longspan.processes import ALONE, Processes
from longspan.surgery import placed
from longspan.train import snapshot
from longspan.train.arguments import STATE_FOLDER, learning_rate_share, training_arguments
from longspan.train.config import RunConfig
from longspan.train.distill import Teacher
from longspan.train.exact import ExactTrainer
from longspan.train.loss import ChunkedLoss
from longspan.train.parallel import cut_like_tokens
from longspan.train.preserve import Agreement
from longspan.train.states import save_state, saved_states, state_step
from longspan.train.ulysses import Ulysses

SKIPS = 10
"""Steps skipped in a row at which a run stops, whatever the policy: it does not find back by itself."""


def compile_layers(model: PreTrainedModel) -> None:
    """Compile every decoder layer in place: they share one graph, which is made once instead of once a layer."""
    for layer in model.base_model.layers:
        layer.compile()


class RunTrainer(ExactTrainer):
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
        processes: Processes = ALONE,
        teacher: Teacher | None = None,
        preserved: Agreement | None = None,
    ) -> None:
        self.config, self.processes, self.teacher, self.preserved = config, processes, teacher, preserved
        self.states, self.learning_alone = out / STATE_FOLDER, config.lora is not None
        self._progress: dict[str, Any] | None = None
        self._before_step: _PassState | None = None
        self._positions: Tensor | None = None
        self._skipped_in_a_row = 0
        self._started = time.monotonic()
        self._seconds_before = 0.0
        use_cache = model.config.use_cache
        super().__init__(
            model=model,
            args=training_arguments(config, out, device, processes.count),
            train_dataset=dataset,
            data_collator=stack_rows,
            callbacks=[_Begin(self), *callbacks],
        )
        # the Trainer turns this off in the config, from where it would get into the saved model
        model.config.use_cache = use_cache
        self.remove_callback(PrinterCallback)
        causal_lm: PreTrainedModel = model.get_base_model() if config.lora is not None else model
        if config.compile:
            compile_layers(causal_lm)
        if config.activation_checkpointing:
            causal_lm.activation_checkpointing_enable({"use_reentrant": False})
        self._chunked_loss = ChunkedLoss(causal_lm, config.loss_chunk)
        self._ulysses = Ulysses(self.accelerator, config.parallel.ulysses)
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
        """As the Trainer computes it, without a cache of keys and values, and without the logits of all tokens.

        A teacher needs those logits: its loss is mixed with the Trainer's.
        """
        inputs = {**inputs, "use_cache": False}
        if self.teacher is None:
            inputs |= self._chunked_loss.arguments(inputs["input_ids"].numel())
            return super().compute_loss(model, inputs, **kwargs)
        loss, outputs = super().compute_loss(model, inputs, **{**kwargs, "return_outputs": True})
        # of several processes each takes its loss times their number, since their gradients are averaged
        items = kwargs["num_items_in_batch"] / self.processes.count
        with self.accelerator.autocast():
            return self.teacher.loss(loss, outputs.logits, inputs["input_ids"], inputs["labels"], items)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass; `positions` of the batch go to the rotary module alone."""
        rest = {name: value for name, value in inputs.items() if name != "positions"}
        self._positions = None if "positions" not in inputs else self._ulysses.own(inputs["positions"])
        with placed(model, self._positions, self.state.global_step), self._ulysses.attending():
            loss = super().training_step(model, rest, *args, **kwargs)
        return loss if self.preserved is None else loss + self._preserve(self.preserved, model, rest["input_ids"])

    def _preserve(self, preserved: Agreement, model: nn.Module, input_ids: Tensor) -> Tensor:
        """A second pass, backward included, after that of the training positions."""
        # of several processes each takes its loss times their number, since their gradients are averaged
        rows = self.config.rows_per_step / self.processes.count
        with self.accelerator.autocast():
            loss = preserved.loss(model, input_ids.to(self.args.device), rows)
        self.accelerator.backward(loss)
        return loss.detach()

    def _prepare_context_parallel_inputs(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        context, inputs = super()._prepare_context_parallel_inputs(model, inputs)
        if self._ulysses.count > 1:
            return contextlib.nullcontext, {name: self._ulysses.own(window) for name, window in inputs.items()}
        if self.config.parallel.context > 1 and self._positions is not None:
            context = cut_like_tokens(context, self._positions)
        return context, inputs

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the gradient: the last thing known before the optimizer moves the weights.

        Raises:
            TrainingError: the step has diverged and shall not be skipped; the state before it is saved.
        """
        norm = float(super()._get_grad_norm(model, grad_norm=grad_norm))
        loss = fmean(self.processes.gather(self._tr_loss.item()))  # a number that went wrong is one for all
        limit = math.inf if self.config.norm_limit is None else self.config.norm_limit
        if math.isfinite(loss) and norm < limit:
            self._skipped_in_a_row = 0
            return norm
        what, value = ("gradient's norm", norm) if math.isfinite(loss) else ("loss", loss)
        self._skipped_in_a_row += 1
        if self.config.on_divergence == "stop" or self._skipped_in_a_row == SKIPS:
            with self.processes.together():
                raise self._diverged(what, value)
        self._skip(norm)
        return norm

    def _skip(self, norm: float) -> None:
        """Have the optimizer step over this batch: as if it had not been there, but for the learning rate's course."""
        assert self._before_step is not None
        self.model.zero_grad()  # a weight without a gradient stays as it is, and so do its moments
        self._tr_loss.copy_(self._before_step.loss_sum)
        self._globalstep_last_logged += 1  # the logged mean is that of the other steps
        self.log({"skipped": norm})

    def _diverged(self, what: str, value: float) -> TrainingError:
        """The error for a number that went wrong in the step in progress, before it touched the weights."""
        self._keep_good_state()
        return self._not_finite(what, value, self.state.global_step + 1)

    def _not_finite(self, what: str, value: float, step: int) -> TrainingError:
        kept = saved_states(self.states)
        state = f"{kept[-1]} keeps the state after step {state_step(kept[-1])}" if kept else "no state was saved before"
        return TrainingError(
            f"the {what} became {value:.4g} at step {step} of {self.config.total_steps}; {state}:"
            " train again elsewhere with a lower optimizer.learning_rate or a longer optimizer.warmup"
        )

    def _keep_good_state(self) -> None:
        """Save the state as it was before the step in progress, unless it is there or no longer good."""
        step, before, weights = self.state.global_step, self._before_step, self.weights()
        if step == 0 or before is None or not self.processes.all(_finite(weights)):
            return
        if self.processes.any(self.processes.first and step not in map(state_step, saved_states(self.states))):
            with contextlib.suppress(StorageError):  # what went wrong first is what the user must hear of
                self._save_state(weights, before)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        weights = self.weights()
        with self.processes.together():
            if not _finite(weights):
                raise self._not_finite("largest weight", math.nan, self.state.global_step)
        self._save_state(weights, self._changing())

    def _changing(self) -> _PassState:
        return _PassState(self._tr_loss.clone(), *snapshot.generator_values())

    def _save_state(self, weights: dict[str, Tensor], now: _PassState) -> None:
        progress = {
            "loss_sum": self.processes.gather(now.loss_sum.item()),
            "last_logged": self._globalstep_last_logged,
            "total_loss": self._total_loss_scalar,
            "seconds": self.seconds,
        }
        parts = self.state_parts(weights, now.generators, now.generator_values, progress)
        with self.processes.together():
            if self.processes.first:
                save_state(self.states, self.state.global_step, *parts)

    def take_up(self, progress: dict[str, Any]) -> None:
        """Keep it until the Trainer has reset its counts (`begin`)."""
        self._progress = progress

    def begin(self) -> None:
        """Take up the running mean of the loss where it was, and the saving interval that holds now."""
        self.state.save_steps = self.config.save_every
        self._started = time.monotonic()
        if self._progress is None:
            return
        self._tr_loss = torch.tensor(self._own_loss_sum(self._progress["loss_sum"]), device=self.args.device)
        self._globalstep_last_logged = self._progress["last_logged"]
        self._total_loss_scalar = self._progress["total_loss"]
        self._seconds_before = self._progress["seconds"]

    def _own_loss_sum(self, sums: list[float] | float) -> float:
        """This process's part of the running loss; an even one where there are more or fewer processes than before."""
        kept = sums if isinstance(sums, list) else [sums]  # one number, before there were several processes
        return kept[self.processes.rank] if len(kept) == self.processes.count else fmean(kept)

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
    """Windows as a batch: each key [rows, length of the longest]; shorter ones end in padding that is not learned."""
    fill = {"labels": IGNORED}
    return {
        key: pad_sequence([row[key] for row in rows], batch_first=True, padding_value=fill.get(key, 0))
        for key in rows[0]
    }
