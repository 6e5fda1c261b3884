"""The processes of one run: who they are, and what they agree on. The first alone writes files and speaks."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from longspan.errors import ConfigError, LongspanError, TrainingError

Item = TypeVar("Item")
Found = TypeVar("Found")

_INTERRUPTED = 130
_PATIENCE = datetime.timedelta(days=1)
"""How long the others wait for what the first process does alone: preparing a large text takes hours."""

_PLAIN = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "no"}
_FLAGS = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
    "ACCELERATE_USE_MEGATRON_LM",
)
"""What accelerate's launcher says of more than how many processes there are, where it was told to."""


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
        import torch
        import torch.distributed as dist

        values = [torch.zeros(1, dtype=torch.float64) for _ in range(self.count)]
        with lost_workers():
            dist.all_gather(values, torch.tensor([value], dtype=torch.float64), group=self.group)
        return [found.item() for found in values]

    def share(self, items: Sequence[Item], work: Callable[[Sequence[Item]], list[Found]]) -> list[Found]:
        """What `work` makes of each of `items`, in their order: every process does a stretch, and all get the whole.

        Raises:
            TrainingError: one of them is gone.
            SystemExit: `work` failed in another process, which says so.
        """
        if self.count == 1:
            return work(items)
        import torch.distributed as dist

        cuts = [len(items) * rank // self.count for rank in range(self.count + 1)]
        mine = items[cuts[self.rank] : cuts[self.rank + 1]]
        with self.together():
            found = work(mine) if mine else []
        parts: list[Any] = [None] * self.count
        with lost_workers():
            dist.all_gather_object(parts, found, group=self.group)
        return [each for part in parts for each in part]

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
        import torch.distributed as dist

        # NCCL and the store have classes of their own; gloo names its source files in a plain RuntimeError
        if isinstance(error, dist.DistError) or "/gloo/" in str(error):
            raise TrainingError(
                "another process of this run is gone (what it or the launcher printed says why): "
                "run the same again to go on from what was kept"
            ) from error
        raise


ALONE = Processes()
"""A run of one process."""


def check_launcher() -> None:
    """Make sure that accelerate's launcher was told nothing but how many processes there are.

    Raises:
        ConfigError: it was; that would have no effect where nothing is trained.
    """
    told = [name for name, plain in _PLAIN.items() if os.environ.get(name, plain).lower() != plain]
    told += [name for name in _FLAGS if os.environ.get(name, "").lower() in {"true", "1"}]
    if told:
        raise ConfigError(
            f"the launcher sets {told[0]}, which has no effect here: launch with --multi_gpu and "
            "--num_processes alone, and choose the number format with --dtype"
        )


def launched(*, on_processors: bool) -> Processes:
    """The processes that the launcher has started; one alone if none has.

    Raises:
        ConfigError: it was asked for several and has started one, as accelerate's does on processors.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
        if on_cpu and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
            raise ConfigError(
                "accelerate's launcher was asked for several processes and starts one under --cpu: launch with "
                "--multi_gpu in its place, or by torchrun, and choose processors by --device cpu"
            )
        return ALONE
    import torch.distributed as dist
    from accelerate import PartialState

    # kept until the process ends: torch cannot begin a second time under the same launcher
    state = PartialState(cpu=on_processors)
    assert state.num_processes > 1
    group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes, group)
