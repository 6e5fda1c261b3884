"""What a run costs: time, and the most memory that it takes."""

from __future__ import annotations

import ctypes
import gc
import os
from dataclasses import replace
from pathlib import Path

import torch

from longspan.processes import ALONE, Processes
from longspan.records import Record

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """Bytes in use at the highest moment since this was made.

    On CUDA they are what torch has allocated on the device, on processors what is resident of this process, as Linux
    counts it: libraries and what was freed and not given back are in it. There is one such count in a process: the
    last one made is the one that is right.
    """

    before: int | None = None
    """Bytes in use when it was made; None on a system that does not tell."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        elif os.access(_CLEAR, os.W_OK):
            _give_back_freed()
            _CLEAR.write_text("5")  # the peak starts anew from what is in use now
            self.before = _resident("VmRSS")

    def bytes(self) -> int | None:
        """The peak so far; None on a system that does not tell."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return None if self.before is None else _resident("VmHWM")


def cost_records(seconds: Record, steps: int, peak: int | None, processes: Processes = ALONE) -> list[Record]:
    """What a run took: all its `seconds`, those of one of its `steps`, and bytes of memory.

    Args:
        seconds: the record of the time of the whole run, that for saving its states included.
        peak: bytes that this process had in use at most; the record has those of the process with most. None:
            no record.
    """
    assert seconds.value is not None
    found = [seconds, replace(seconds, metric="seconds per step", value=round(seconds.value / steps, 6))]
    if peak is not None:
        found.append(replace(seconds, metric="bytes", value=max(processes.gather(peak))))
    return found


def _give_back_freed() -> None:
    """Have the C library return what was freed: it would be taken up again unseen."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


def _resident(name: str) -> int:
    """Bytes that Linux gives under `name` for this process."""
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
