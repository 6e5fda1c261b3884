"""The one progress bar of a study: work done by all arms, and the time left."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import Any, Self

from tqdm import tqdm


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far one arm is."""

    work: float
    """Cost of what is done, in forward tokens."""
    cells: int
    """Finished cells."""
    note: str
    """What is going on, in a few words."""


class StudyBar:
    """Shows how far all arms together are; safe to call from several threads."""

    def __init__(self, title: str, work: dict[str, float], cells: int, *, shown: bool) -> None:
        """`work` is the total of each arm; `cells` are those of all arms."""
        self._lock = threading.Lock()
        self._done = {name: Step(work=0.0, cells=0, note="waiting") for name in work}
        self._total_cells = cells
        settings: dict[str, Any] = {"mininterval": 0.2 if sys.stderr.isatty() else 30}
        self._bar = tqdm(
            total=round(sum(work.values())),
            desc=title,
            disable=not shown,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            **settings,
        )

    def update(self, name: str, step: Step) -> None:
        """Note how far the arm `name` is."""
        if self._bar.disable:
            return
        with self._lock:
            first = self._done[name].note == "waiting"
            before = self._done[name].work
            self._done[name] = step
            if first:  # found from an earlier call: not part of the speed
                self._bar.initial += round(step.work)
                self._bar.n += round(step.work)
            else:
                self._bar.update(max(0, round(step.work - before)))
            cells = sum(step.cells for step in self._done.values())
            self._bar.set_postfix_str(f"{cells}/{self._total_cells} cells, {name}: {step.note}", refresh=first)

    def write(self, line: str) -> None:
        """A line above the bar."""
        if not self._bar.disable:
            self._bar.write(line, file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
