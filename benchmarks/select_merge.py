"""What select-and-merge saves against dense causal attention, and how both grow with the length.

One layer's attention in float32, routing included, on one thread and by the time of the processor, to which other work
on the machine adds little. The lengths from 64k on take few turns, so that the suite ends
within a quarter of an hour on a processor that is free.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.process_memory import peak_bytes
from longspan.bench.paired import ratio, take_turns
from longspan.bench.settings import BenchSettings
from longspan.kernels.select_merge import select_merge_attention, select_regions
from longspan.records import Record
from longspan.regions import Sizes

HEADS, HEAD_DIM = 2, 64
SIZES = Sizes(region=16, top=512, merge=64)
TURNS = {4096: 5, 8192: 5, 16384: 5, 32768: 3, 65536: 2, 131072: 2}
"""Turns at the least, by length."""
COLD_FROM = 32768
"""From this length on a warm-up would cost more than it is worth."""
FIT_FROM = 32768
"""The exponent is fitted from here on: shorter inputs are mostly front."""
MEMORY_LENGTHS = (4096, 16384, 32768)
OURS, DENSE = "select-merge", "dense"


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention to everything, on torch's own kernel."""
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def select_merge(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Routing and attention."""
    return select_merge_attention(q, k, v, SIZES, regions=select_regions(q, k, SIZES))


WAYS = {DENSE: dense, OURS: select_merge}


def select_merge_costs(settings: BenchSettings) -> Iterator[Record]:
    """Ratios of dense over ours in time (paired) and peak memory (a process each), seconds, and fitted exponents."""
    for task in MAKERS:
        yield from time_costs(task, settings.seconds)
        yield from memory_costs(task)


def time_costs(task: str, seconds: float) -> Iterator[Record]:
    """What the task, "forward" or "backward", takes on one thread: ratios and seconds by length, and the exponents."""
    torch.set_num_threads(1)
    fastest: dict[str, list[float]] = {name: [] for name in WAYS}
    for length, least in TURNS.items():
        calls = {name: MAKERS[task](way, length) for name, way in WAYS.items()}
        warm_up = length < COLD_FROM
        times = take_turns(
            calls, seconds=seconds, least=least, warm_up=warm_up, clock=time.process_time, label=f"{task} {length}"
        )
        found = ratio(times, DENSE, OURS)
        yield found.record(f"select-merge, {task}", length)
        for name in WAYS:
            fastest[name].append(min(times[name]))  # a busy machine only adds
            yield _record(name, task, "seconds", fastest[name][-1], length, n=len(times[name]))
    for name, value in exponents(list(TURNS), fastest).items():
        yield _record(name, task, "exponent", value, max(TURNS), n=sum(length >= FIT_FROM for length in TURNS))


def exponents(lengths: Sequence[int], fastest: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The slope of log time over log length from `FIT_FROM` on, by least squares."""
    far = np.asarray(lengths) >= FIT_FROM
    logs = np.log(np.asarray(lengths)[far])
    return {name: float(np.polyfit(logs, np.log(np.asarray(times)[far]), 1)[0]) for name, times in fastest.items()}


def inputs(length: int) -> list[Tensor]:
    """q, k and v of one attention layer, in memory as a model's projections leave them: token by token."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, length, HEADS, HEAD_DIM, generator=generator).transpose(1, 2) for _ in range(3)]


def _forward(way: Callable[..., Tensor], length: int) -> Callable[[], object]:
    given = inputs(length)
    return torch.no_grad()(lambda: way(*given))


def _backward(way: Callable[..., Tensor], length: int) -> Callable[[], object]:
    given = [x.requires_grad_() for x in inputs(length)]
    output = way(*given)
    weight = torch.ones_like(output)
    return lambda: torch.autograd.grad(output, given, weight, retain_graph=True)


MAKERS = {"forward": _forward, "backward": _backward}


def memory_costs(task: str) -> Iterator[Record]:
    """Peaks of both up to 32k, the ratio of ours to dense, and ours at the longest length."""
    for length in (*MEMORY_LENGTHS, max(TURNS)):
        names = WAYS if length in MEMORY_LENGTHS else (OURS,)
        found = {name: _peak_bytes(name, task, length) for name in names}
        for name, peak in found.items():
            yield _record(name, f"{task}, peak memory", "bytes", peak, length)
        if DENSE in found:
            yield _record(f"{OURS} / {DENSE}", f"{task}, peak memory", "ratio", found[OURS] / found[DENSE], length)


def _record(name: str, task: str, metric: str, value: float, length: int, n: int = 1) -> Record:
    task = f"select-merge, {task}"
    return Record(run="benchmarks", method=name, model=name, task=task, metric=metric, value=value, n=n, length=length)


def _peak_bytes(name: str, task: str, length: int) -> int:
    """Bytes that one call adds to the peak of a fresh process, inputs not counted."""
    command = [sys.executable, "-m", "benchmarks.select_merge", name, task, str(length)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _print_peak(name: str, task: str, length: int) -> None:
    def call(given: list[Tensor]) -> None:
        output = WAYS[name](*given)
        if task == "backward":
            output.backward(torch.ones_like(output))

    call([x.requires_grad_(task == "backward") for x in inputs(64)])  # loads what a first call loads
    given = [x.requires_grad_(task == "backward") for x in inputs(length)]
    print(peak_bytes(lambda: call(given)))


if __name__ == "__main__":
    _print_peak(sys.argv[1], sys.argv[2], int(sys.argv[3]))
