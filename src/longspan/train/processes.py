"""The processes of one run: who they are, and what they agree on. The first alone writes files and speaks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from longspan.errors import LongspanError, TrainingError

_INTERRUPTED = 130


def is_first() -> bool:
    """Whether this process is the first that the launcher has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    count: int = 1
    group: Any = field(default=None, repr=False)
    """Where they agree: a group of its own, on processors, so that agreeing waits for no accelerator."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def gather(self, value: float) -> list[float]:
        """The `value` of each process, in their order.

        Raises:
            TrainingError: one of them is gone.
        """
        if self.count == 1:
            return [value]
        values = [torch.zeros(1, dtype=torch.float64) for _ in range(self.count)]
        with lost_workers():
            dist.all_gather(values, torch.tensor([value], dtype=torch.float64), group=self.group)
        return [found.item() for found in values]

    def any(self, holds: bool) -> bool:
        """Whether it holds in one of them."""
        return any(self.gather(holds))

    def all(self, holds: bool) -> bool:
        """Whether it holds in all of them."""
        return all(self.gather(holds))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around what all do, or the first alone: where it fails in one it ends in all, and only one says why.

        Raises:
            SystemExit: it failed in another process, which says so.
        """
        error = None
        try:
            yield
        except BaseException as caught:
            error = caught
            if self.count == 1:
                raise
        codes = [int(code) for code in self.gather(0 if error is None else _exit_code(error))]
        speaker = next((rank for rank, code in enumerate(codes) if code), None)
        if speaker is not None:
            if error is not None and speaker == self.rank:
                raise error
            raise SystemExit(codes[speaker])


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    return error.exit_code if isinstance(error, LongspanError) else 1


@contextlib.contextmanager
def lost_workers() -> Iterator[None]:
    """Turn what the back ends of torch say when a process is gone into one line.

    Raises:
        TrainingError: a process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        # NCCL and the store have classes of their own; gloo names its source files in a plain RuntimeError
        if isinstance(error, dist.DistError) or "/gloo/" in str(error):
            raise TrainingError(
                "another process of this run is gone (what it or the launcher printed says why): "
                "run the same again to go on from the last saved state"
            ) from error
        raise


ALONE = Processes()
"""A run of one process."""
