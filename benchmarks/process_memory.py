"""Peak memory of a call: to be asked in a fresh process, since torch keeps what it once had."""

from __future__ import annotations

from collections.abc import Callable

import torch

from longspan.train.cost import PeakMemory


def peak_bytes(call: Callable[[], object]) -> int:
    """Bytes that `call` adds to the peak of this process, on processors."""
    memory = PeakMemory(torch.device("cpu"))
    call()
    peak = memory.bytes()
    assert peak is not None, "Linux alone counts it"
    assert memory.before is not None
    return peak - memory.before
