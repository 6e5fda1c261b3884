"""What CoCA costs: a training step and a prefill against plain RoPE, and attention against the released way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.paired import ratio, take_turns
from benchmarks.process_memory import peak_bytes
from longspan.equation import Window
from longspan.kernels.dense import attention
from longspan.methods.feature.coca import Coca
from longspan.records import Record
from longspan.rotation import rotate_pairs, rotation_tables
from longspan.train.sizes import build_model

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
TOKENS = 8192
"""Tokens of a batch, whatever their length."""
ARMS = {"transformers": "rope", "coca": "coca", "coca-slack": "coca(form='slack')", "pope-half": "pope(width='half')"}
"""Plain RoPE is transformers' own Llama, unpatched, on the same SDPA."""

HEADS, HEAD_DIM = 8, 64
RELEASED_LENGTHS = (512, 1024, 2048, 4096)


def model_costs(task: str, seconds: float) -> Iterator[Record]:
    """Ratios of a whole model's time, by length: task "train-step" or "prefill"."""
    models = {name: build_model("llama", "3m", 1024, 256, 10000.0, methods, 0) for name, methods in ARMS.items()}
    for length in LENGTHS:
        ids = torch.randint(0, 1024, (max(1, TOKENS // length), length))
        make = _training_step if task == "train-step" else _prefill
        calls = {name: make(model, ids) for name, model in models.items()}
        times = take_turns(calls, seconds=seconds, label=f"{task} {length}")
        for name in list(ARMS)[1:]:
            found = ratio(times, name, "transformers")
            print(f"{task:12} {length:6} {found}")
            yield found.record(task, length)


def _training_step(model: torch.nn.Module, ids: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _prefill(model: torch.nn.Module, ids: Tensor) -> Callable[[], object]:
    @torch.no_grad()
    def prefill() -> object:
        return model(ids, use_cache=True, logits_to_keep=1)

    return prefill


def inputs(length: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of one attention layer."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, HEADS, length, HEAD_DIM, generator=generator) for _ in range(3))  # type: ignore[return-value]


def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Exact CoCA on SDPA."""
    return attention(q, k, v, methods=[Coca()], window=_window(q.shape[2]))


def released(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Slack CoCA as released: scores by one contraction into an N x N matrix, mask, softmax, product.

    The contraction is given its better order (q times rotated q first), which an einsum does not find by itself.
    """
    window = _window(q.shape[2])
    cos, sin = rotation_tables(window.omega, torch.arange(q.shape[2]), q.dtype)
    t = Coca(form="slack").psi(k, "half", {})
    scores = (q * rotate_pairs(q, cos, sin, "half")) @ rotate_pairs(t, cos, sin, "half").transpose(2, 3)
    hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    return (scores / HEAD_DIM**0.5).masked_fill(hidden, torch.finfo(q.dtype).min).softmax(-1) @ v


def _window(length: int) -> Window:
    return Window(rotary_dim=HEAD_DIM, original_length=length, target_length=length)


WAYS = {"ours": ours, "released": released}


def released_costs(seconds: float) -> Iterator[Record]:
    """Ratios of time (paired) and of peak memory (a process each) of the released way over ours, by length."""
    for length in RELEASED_LENGTHS:
        q, k, v = inputs(length)
        calls: dict[str, Callable[[], object]] = {
            name: (lambda way=way, q=q, k=k, v=v: way(q, k, v)) for name, way in WAYS.items()
        }
        found = ratio(take_turns(calls, seconds=seconds, label=f"released {length}"), "released", "ours")
        print(f"{'attention':12} {length:6} {found}")
        yield found.record("attention", length)
        memory = {name: _peak_bytes(name, length) for name in WAYS}
        value = memory["released"] / memory["ours"]
        print(
            f"{'memory':12} {length:6} released / ours: {value:.1f} ({memory['released']} over {memory['ours']} bytes)"
        )
        for name, peak in memory.items():
            yield _record(name, "attention", "bytes", peak, length)
        yield _record("released / ours", "memory", "ratio", value, length)


def _record(method: str, task: str, metric: str, value: float, length: int) -> Record:
    return Record(
        run="benchmarks", method=method, model=method, task=task, metric=metric, value=value, n=1, length=length
    )


def _peak_bytes(way: str, length: int) -> int:
    """Bytes that one call adds to the peak of a fresh process, inputs not counted."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.coca_cost", way, str(length)], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


def _print_peak(way: str, length: int) -> None:
    WAYS[way](*inputs(64))  # loads what a first call loads
    q, k, v = inputs(length)
    print(peak_bytes(lambda: WAYS[way](q, k, v)))


if __name__ == "__main__":
    with torch.no_grad():
        _print_peak(sys.argv[1], int(sys.argv[2]))
