"""Peak memory of a call, as Linux counts it: to be asked in a fresh process, since torch keeps what it once had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def peak_bytes(call: Callable[[], object]) -> int:
    """Bytes that `call` adds to the peak of this process."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is in use now
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """Bytes that Linux gives under `name` for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
