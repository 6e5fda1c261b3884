"""What a suite is told: lengths, time, and where and in what numbers it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """Settings of all suites of one run; a suite that has no use for one of them ignores it."""

    lengths: tuple[int, ...] | None = None
    """Tokens; None takes each suite's own."""
    seconds: float = 5.0
    """Time for each set of contestants and length, at the least; a few turns are always taken."""
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    seed: int = 0
    progress: bool = True

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on an accelerator, which has room for larger sizes and takes them."""
        return self.device.type == "cuda"

    def chosen(self, own: Sequence[int]) -> tuple[int, ...]:
        """The lengths that were asked for, shortest first, else a suite's `own`."""
        return tuple(own) if self.lengths is None else tuple(sorted(set(self.lengths)))

    def finished(self, call: Callable[[], object]) -> Callable[[], object]:
        """`call` with a wait at its end for what it left running on the device."""
        if not self.on_gpu:
            return call

        def run() -> object:
            result = call()
            torch.cuda.synchronize(self.device)
            return result

        return run
