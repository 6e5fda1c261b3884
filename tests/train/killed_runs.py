"""Runs that end badly, each in a process of its own; `python killed_runs.py FOLDER` starts them one after another.

The processes are forked from one that has loaded the libraries and computed nothing yet.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from longspan.errors import LongspanError
from longspan.train import sizes, states
from longspan.train.config import RunConfig
from longspan.train.run import train
from longspan.train.trainer import RunTrainer


def at_step(number: int, action: Callable[[], None]) -> None:
    """Have every trainer do `action` in the middle of step `number`, once."""
    training_step = RunTrainer.training_step
    todo = [action]

    def step(self: RunTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = training_step(self, *args, **kwargs)
        if self.state.global_step + 1 == number and todo:
            todo.pop()()
        return loss

    RunTrainer.training_step = step  # type: ignore[method-assign]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_while_saving(number: int) -> None:
    """Kill when half of the second state is on the disk."""
    save_file = states.save_file

    def save(tensors: Any, path: Path) -> None:
        save_file(tensors, path)
        if f"step-{number:09d}" in str(path) and path.name == "optimizer.safetensors":
            kill()

    states.save_file = save


def kill_while_finishing() -> None:
    """Kill when the trained model is written and its tokenizer is not."""
    PreTrainedTokenizerBase.save_pretrained = lambda self, *args, **kwargs: kill()


def fill_disk() -> None:
    """From now on no file can grow beyond 20 kB: what a full disk does, for one process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


def in_process(name: str, action: Callable[[], Any]) -> None:
    """Run `action` in a process of its own and print how it ended."""
    child = os.fork()
    if child == 0:
        try:
            action()
            print(f"{name}: done", flush=True)
        except (KeyboardInterrupt, LongspanError) as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        print(f"{name}: signal {os.WTERMSIG(status)}", flush=True)


def main(folder: Path) -> None:
    values = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    sizes.SIZES["tiny"] = sizes.Size(**values.pop("tiny"))
    config = RunConfig.parse(values, "test")

    def run(name: str, prepare: Callable[[], None] = lambda: None) -> None:
        def action() -> None:
            prepare()
            train(config, folder / name, progress=False)

        in_process(name, action)

    run("whole")
    run("killed", lambda: at_step(6, kill))
    run("torn", lambda: kill_while_saving(4))
    run("finishing", kill_while_finishing)
    run("interrupted", lambda: at_step(3, lambda: signal.raise_signal(signal.SIGINT)))
    run("full", lambda: at_step(5, fill_disk))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
