"""Runs that end badly, each in a process of its own; `python killed_runs.py FOLDER` starts them one after another.

With a number behind FOLDER they are so many runs killed at random moments, each then run to its end. The processes are
forked from one that has loaded the libraries and computed nothing yet.
"""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
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


FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate")


def at_file_event(inside: Path, number: int | None, action: Callable[[], None] = kill) -> list[str]:
    """Do `action` right before file operation `number` inside a folder; returns the list that they are noted in."""
    seen: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and str(arguments[0]).startswith(str(inside)):
            seen.append(event)
            if len(seen) == number:
                action()

    sys.addaudithook(note)
    return seen


def in_process(name: str, action: Callable[[], Any], *, seconds: float | None = None) -> bool:
    """Run `action` in a process of its own, for so many seconds at most; print how it ended, and say if by a signal."""
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
    if seconds is not None:
        clock = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
        clock.start()
    _, status = os.waitpid(child, 0)
    if seconds is not None:
        clock.cancel()
    if os.WIFSIGNALED(status):
        print(f"{name}: signal {os.WTERMSIG(status)}", flush=True)
    return os.WIFSIGNALED(status)


def kill_at_random(folder: Path, config: RunConfig, count: int) -> None:
    """Kill `count` runs, half of them by the clock and half between two file operations; then run each to its end."""

    def whole() -> None:
        seen = at_file_event(folder / "again", None)
        train(config, folder / "again", progress=False)
        (folder / "file-events").write_text(str(len(seen)), encoding="utf-8")

    in_process("whole", lambda: train(config, folder / "whole", progress=False))
    begun = time.monotonic()
    in_process("again", whole)  # not the first: that one has also made the tokens
    seconds, events = time.monotonic() - begun, int((folder / "file-events").read_text(encoding="utf-8"))
    rng = random.Random(0)
    for number in range(count):
        out = folder / f"killed-{number}"
        if number % 2:
            # a run may be faster than the one that was timed, and be done at that moment
            while not in_process(
                out.name, lambda out=out: train(config, out, progress=False), seconds=rng.random() * seconds
            ):
                shutil.rmtree(out)
        else:
            in_process(out.name, functools.partial(killed_at, config, out, rng.randint(1, events)))
        left = sorted(path.name for path in out.rglob(".step-*")) + sorted(path.name for path in out.rglob("step-*"))
        print(f"{out.name} left {' '.join(left)}", flush=True)
        in_process(f"resumed-{number}", functools.partial(train, config, out, progress=False))


def killed_at(config: RunConfig, out: Path, moment: int) -> None:
    at_file_event(out, moment)
    train(config, out, progress=False)


def main(folder: Path, count: int) -> None:
    values = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    sizes.SIZES["tiny"] = sizes.Size(**values.pop("tiny"))
    config = RunConfig.parse(values, "test")
    if count:
        kill_at_random(folder, config, count)
        return

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
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
