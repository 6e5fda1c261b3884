"""The physical limit: how long a piece of work must take on this machine, by what it computes and what it moves.

Both rates are measured, in the same run as the contestants: the product of two large matrices, and reading and copying
what fits in no cache. The fastest of several tries counts, since a limit is what cannot be passed.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from longspan.records import Record

TRIES = 10
MATRIX = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices of the product."""
BUFFER = {"cpu": 1 << 28, "cuda": 1 << 31}
"""Bytes that are read and copied."""


@dataclass(frozen=True, slots=True)
class Work:
    """What must be done, however it is done."""

    operations: float
    """Multiplications and additions, two to a product of a matrix's elements."""
    bytes: float
    """Bytes that cross between memory and processor at the least: what is given is read once, what is asked for is
    written once."""

    def times(self, factor: float) -> Work:
        """So many of it."""
        return Work(self.operations * factor, self.bytes * factor)

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine can do in one dtype: each try, in operations and in bytes a second."""

    rates: Sequence[float]
    bandwidths: Sequence[float]

    def seconds(self, work: Work) -> float:
        """The least time for `work`: computing and moving may go on at once."""
        return max(work.operations / max(self.rates), work.bytes / max(self.bandwidths))

    def records(self) -> list[Record]:
        """Both rates, with the quartiles of the tries."""
        return [
            _record("operations per second", self.rates),
            _record("bytes per second", self.bandwidths),
        ]


def _record(metric: str, tries: Sequence[float]) -> Record:
    low, _, high = statistics.quantiles(tries, n=4, method="inclusive")
    return Record(
        run="benchmarks", method="", model="machine", task="machine", metric=metric, value=max(tries), low=low,
        high=high, n=len(tries),
    )  # fmt: skip


@functools.cache
def machine(
    device: torch.device, dtype: torch.dtype, *, matrix: int | None = None, buffer: int | None = None
) -> Machine:
    """This machine's rates, measured once in a process.

    Args:
        matrix: rows of the matrices; None takes what fills the device.
        buffer: bytes to move; None takes what fits in no cache.
    """
    rows, size = matrix or MATRIX[device.type], buffer or BUFFER[device.type]
    a, b = (torch.ones(rows, rows, device=device, dtype=dtype) for _ in range(2))
    rates = [2.0 * rows**3 / seconds for seconds in _tries(lambda: a @ b, device)]
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    reading = [size / seconds for seconds in _tries(source.sum, device)]
    copying = [2.0 * size / seconds for seconds in _tries(lambda: target.copy_(source), device)]
    return Machine(rates, max(reading, copying, key=max))


def _tries(call: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of each try, after one that does not count."""
    seconds = []
    for _ in range(TRIES + 1):
        before = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - before)
    return seconds[1:]


def attention_work(q: Tensor, k: Tensor, *, backward: bool = False) -> Work:
    """Causal attention of as many queries as keys, each of which sees itself and those before it.

    A backward pass is counted as twice a forward, in products and in bytes: what is computed again for want of memory
    is no work that must be done.

    Args:
        q: `B H T D`
        k: `B G T D`; v is as large.
    """
    batch, heads, length, width = q.shape
    seen = length * (length + 1) / 2
    # two products, q k and weights v; q and the output, k and v
    forward = Work(2 * 2.0 * batch * heads * seen * width, 2.0 * q.element_size() * (q.numel() + k.numel()))
    return forward.times(3) if backward else forward


def model_work(model: PreTrainedModel, batch: int, length: int, *, training: bool) -> Work:
    """A training step by AdamW, or reading a prompt for the next token: `batch` rows of `length` tokens.

    Training moves each weight ten times: forward, backward and gradient, and AdamW reads four and writes three.
    """
    config = model.config
    head = model.get_output_embeddings()
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    tokens = batch * length
    weights_bytes = sum(parameter.nbytes for parameter in model.parameters())
    shape = (batch, config.num_attention_heads, length, config.hidden_size // config.num_attention_heads)
    q = torch.empty(shape, device="meta", dtype=model.dtype)
    k = torch.empty((batch, config.num_key_value_heads, *shape[2:]), device="meta", dtype=model.dtype)
    layer = attention_work(q, k, backward=training).operations * config.num_hidden_layers
    if training:
        return Work(3 * 2.0 * weights * tokens + layer, 10.0 * weights_bytes)
    kept = 2.0 * k.numel() * k.element_size() * config.num_hidden_layers
    body = weights - head.weight.numel()
    return Work(2.0 * body * tokens + 2.0 * head.weight.numel() * batch + layer, weights_bytes + kept)
