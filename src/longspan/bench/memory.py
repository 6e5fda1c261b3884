"""The most memory that a call takes, as torch's own allocator saw it: exact, and the same on a busy machine."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def allocated_peak(call: Callable[[], object], device: torch.device | None = None) -> int:
    """The most bytes that torch had given out at once during `call`, beside what was there before it."""
    if device is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _hushed():
        profiler.start()
    try:
        kept = call()
    finally:
        with _hushed():
            profiler.stop()
    del kept
    events = [event for event in _events(profiler) if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def _events(profiler: profile) -> list[Any]:
    inner: Any = profiler.profiler
    events: list[Any] = inner.kineto_results.events()
    return events


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep from the terminal what the profiler's C++ says as it starts and stops, which no setting turns off."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
