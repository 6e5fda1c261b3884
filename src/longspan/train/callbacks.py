"""What happens beside the training steps: the progress bar, the record of the loss, the answer to Ctrl-C."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Self

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from longspan.processes import ALONE, Processes
from longspan.records import Record, append_records
from longspan.train.config import RunConfig

TokensSeen = Callable[[int], int]
"""Tokens that the model has seen after so many steps, padding left out."""


class ProgressBar(TrainerCallback):
    """What is done and left, the speed and the loss, on stderr: steps, or the tokens that `seen` counts."""

    def __init__(self, name: str, *, seen: TokensSeen | None = None, shown: bool) -> None:
        self.seen: TokensSeen = seen or (lambda step: step)
        # in a log file a line now and then is enough
        interval = 0.2 if sys.stderr.isatty() else 30
        unit = {"unit": "step"} if seen is None else {"unit": "tok", "unit_scale": True}
        self.settings: dict[str, Any] = {"desc": name, "disable": not shown, "mininterval": interval, **unit}
        self.bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        done, total = self.seen(state.global_step), self.seen(args.max_steps)
        self.bar = tqdm(total=total, initial=done, **self.settings)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert self.bar is not None
        self.bar.update(self.seen(state.global_step) - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)

    def close(self) -> None:
        """Leave the bar on the screen as it is."""
        if self.bar is not None:
            self.bar.close()


class LossRecords(TrainerCallback):
    """Appends the mean loss of every `log_every` steps, and of the last ones, to `records.jsonl`.

    A step that was skipped is a record, too: metric `skipped`, with the norm of its gradient if that is a number.
    """

    def __init__(
        self, config: RunConfig, seen: TokensSeen, method: str, path: Path, processes: Processes = ALONE
    ) -> None:
        self.config, self.seen, self.processes = config, seen, processes
        self.method = method
        self.path = path

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == self.config.total_steps:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        for metric, step in (("loss", state.global_step), ("skipped", state.global_step + 1)):
            if logs and metric in logs:
                value = logs[metric] if math.isfinite(logs[metric]) else None
                record = train_record(self.config, self.method, metric, value, step, self.seen(step))
                with self.processes.together():
                    if self.processes.first:
                        append_records(self.path, [record])


def train_record(config: RunConfig, method: str, metric: str, value: float | None, step: int, tokens: int) -> Record:
    """A number about training after `step`: n is the `tokens` seen, depth the share of the run that is done."""
    return Record(
        run=config.name,
        method=method,
        model=config.model_name,
        task="train",
        metric=metric,
        value=value,
        n=tokens,
        train_length=config.train_length,
        length=config.train_length,
        depth=step / config.total_steps,
        seed=config.seed,
    )


class Interruption(TrainerCallback):
    """Ctrl-C ends the run after the step in progress, with its state saved; a second one ends it at once.

    Of several processes each is told more than once, by the terminal and by the launcher, and not at the same step:
    they agree, and end together.
    """

    def __init__(self, processes: Processes = ALONE) -> None:
        self.processes = processes
        self.asked = False
        self._before: Callable[[int, FrameType | None], Any] | int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not allow it
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self.processes.count == 1:
            self.__exit__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.asked = self.processes.any(self.asked)
        if self.asked:
            control.should_save = True
            control.should_training_stop = True
