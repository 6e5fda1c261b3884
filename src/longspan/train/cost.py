"""What a run costs: time, and the most memory that it takes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from longspan.records import Record
from longspan.train.processes import ALONE, Processes

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """Bytes at the highest moment since this was made, beyond those in use then.

    On CUDA they are what torch has allocated on the device, on processors what is resident of this process, as Linux
    counts it. There is one such count in a process: the last one made is the one that is right.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        elif _is_counted():
            _CLEAR.write_text("5")  # the peak starts anew from what is in use now
            self._before = _resident("VmRSS")

    def bytes(self) -> int | None:
        """The peak so far; None on a system that does not tell."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return _resident("VmHWM") - self._before if _is_counted() else None


def cost_records(seconds: Record, steps: int, peak: int | None, processes: Processes = ALONE) -> list[Record]:
    """What a run took: all its `seconds`, those of one of its `steps`, and bytes of memory.

    Args:
        seconds: the record of the time of the whole run, that for saving its states included.
        peak: bytes that this process took at most; the record has those of the process that took most. None: no record.
    """
    assert seconds.value is not None
    found = [seconds, replace(seconds, metric="seconds per step", value=round(seconds.value / steps, 6))]
    if peak is not None:
        found.append(replace(seconds, metric="bytes", value=max(processes.gather(peak))))
    return found


def _is_counted() -> bool:
    return os.access(_CLEAR, os.W_OK)


def _resident(name: str) -> int:
    """Bytes that Linux gives under `name` for this process."""
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
