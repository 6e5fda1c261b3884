"""Paired timing: contestants take turns in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from longspan.records import Record


@dataclass(frozen=True, slots=True)
class Ratio:
    """How often longer `contestant` took than `baseline`: the median of paired ratios, and their quartiles."""

    contestant: str
    baseline: str
    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return (
            f"{self.contestant} / {self.baseline}: {self.median:.3f} ({self.low:.3f} to {self.high:.3f}, n = {self.n})"
        )

    def record(self, task: str, length: int | None, model: str | None = None) -> Record:
        """The ratio as a record; low and high are quartiles of the pairs, `model` the contestant if it is None."""
        method = f"{self.contestant} / {self.baseline}"
        return Record(
            run="benchmarks", method=method, model=model or self.contestant, task=task, metric="ratio",
            value=self.median, low=self.low, high=self.high, n=self.n, length=length,
        )  # fmt: skip


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    least: int = 5,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    label: str = "",
    progress: bool = True,
) -> dict[str, list[float]]:
    """Seconds of each call, turn by turn: one warm-up turn, then turns until `seconds` have gone, at least `least`.

    The order within a turn rotates, so that nobody always follows the same neighbour.

    Args:
        warm_up: whether there is a first turn that does not count; calls of many seconds can do without.
        clock: what times a call; `time.process_time` counts what the processor did for it, on however many threads.
        progress: whether turns are shown as they go.
    """
    if warm_up:
        for call in contestants.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    gc.collect()
    gc.freeze()  # what was there before is looked through no more: a collection before each call is then quick
    start = time.perf_counter()
    try:
        with tqdm(desc=label, unit="turn", leave=False, disable=not progress) as bar:
            while len(times[names[0]]) < least or time.perf_counter() - start < seconds:
                turn = len(times[names[0]]) % len(names)
                for name in names[turn:] + names[:turn]:
                    gc.collect()
                    before = clock()
                    contestants[name]()
                    times[name].append(clock() - before)
                bar.update()
    finally:
        gc.unfreeze()
    return times


def ratio(times: Mapping[str, Sequence[float]], contestant: str, baseline: str) -> Ratio:
    """Median and quartiles of the contestant's time over the baseline's in the same turn."""
    pairs = [a / b for a, b in zip(times[contestant], times[baseline], strict=True)]
    low, median, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return Ratio(contestant, baseline, median, low, high, len(pairs))


def seconds_records(
    times: Mapping[str, Sequence[float]], task: str, length: int | None, model: str | None = None
) -> list[Record]:
    """The median of each contestant's seconds, with their quartiles; `model` is the contestant if it is None."""
    records = []
    for name, row in times.items():
        low, median, high = statistics.quantiles(row, n=4, method="inclusive")
        records.append(
            Record(
                run="benchmarks",
                method=name,
                model=model or name,
                task=task,
                metric="seconds",
                value=median,
                low=low,
                high=high,
                n=len(row),
                length=length,
            )
        )
    return records


def left_out(task: str, method: str, reason: str, length: int | None = None, model: str | None = None) -> Record:
    """The record of a contestant that was not measured, with the reason; `model` is the contestant if it is None."""
    return Record(
        run="benchmarks", method=method, model=model or method, task=task, metric="left out", value=None,
        length=length, note=reason,
    )  # fmt: skip
