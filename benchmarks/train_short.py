"""What training on short windows saves: PoSE against windows as long as the target, a step each, by target length."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.process_memory import peak_bytes
from longspan import surgery
from longspan.bench.paired import ratio, take_turns
from longspan.bench.settings import BenchSettings
from longspan.data.positions import Placer
from longspan.equation import Position, Window
from longspan.records import Record
from longspan.train.sizes import Size, build_plain_model

TRAIN_LENGTH = 256
FACTORS = (4, 16)
METHODS = {"pose": "pi+pose", "full-length": "pi"}
"""The same scaling for both. A step has one window each, so pose sees a share of the tokens: that is what it is for."""


def short_costs(settings: BenchSettings) -> Iterator[Record]:
    """Ratios of a training step's time (paired) and peak memory (a process each), weights and moments included."""
    for factor in FACTORS:
        target = factor * TRAIN_LENGTH
        times = take_turns(
            {name: training_step(name, target) for name in METHODS},
            seconds=settings.seconds,
            label=f"train-short {target}",
        )
        found = ratio(times, "pose", "full-length")
        yield found.record("train-short, time of a step", target)
        memory = {name: _peak_of(name, target) for name in METHODS}
        value = memory["pose"] / memory["full-length"]
        for name, peak in memory.items():
            yield _record(name, "bytes", peak, target)
        yield _record("pose / full-length", "ratio", value, target)


def _record(method: str, metric: str, value: float, length: int) -> Record:
    task = "train-short, peak memory"
    return Record(
        run="benchmarks", method=method, model=method, task=task, metric=metric, value=value, n=1, length=length
    )


def training_step(name: str, target: int, size: str | Size = "3m") -> Callable[[], object]:
    """A step of AdamW on one window: of TRAIN_LENGTH tokens that are drawn apart anew each time, or of the target."""
    model = build_plain_model("llama", size, 1024, TRAIN_LENGTH, 10000.0, 0)
    plan = surgery.extend(model, METHODS[name], target_length=target).plan
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    length = target if plan.slots.position is None else TRAIN_LENGTH
    ids = torch.randint(0, 1024, (1, length), generator=torch.Generator().manual_seed(0))
    positions = iter(lambda: None, 0) if plan.slots.position is None else _drawn(plan.slots.position, plan.window)
    model.train()

    def step() -> None:
        with surgery.placed(model, next(positions)):
            model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _drawn(position: Position, window: Window) -> Iterator[torch.Tensor]:
    placer = Placer(position=position, window=window, seed=0, step_rows=1)
    index = 0
    while True:
        yield torch.from_numpy(np.stack([placer.draw(TRAIN_LENGTH, index).positions]))
        index += 1


def _peak_of(name: str, target: int) -> int:
    """Bytes that a model and two steps add to the peak of a fresh process."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.train_short", name, str(target)], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


def _train_twice(name: str, target: int, size: str | Size = "3m") -> None:
    step = training_step(name, target, size)
    step()  # AdamW makes its moments in the first
    step()


if __name__ == "__main__":
    # loads what a first step loads, and leaves little behind that the model could use again
    _train_twice("pose", TRAIN_LENGTH, Size(layers=1, width=16, heads=1, intermediate=16, tied=True))
    print(peak_bytes(lambda: _train_twice(sys.argv[1], int(sys.argv[2]))))
