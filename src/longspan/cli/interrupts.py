"""Ctrl-C, noticed wherever it falls: inside an import it could be swallowed, or leave half a module behind.

Until a command is `ready` (its heavy imports are done) the first Ctrl-C is noted and acted on there; a second one, and
any later one, interrupts at once. Library code that drops the exception all the same leaves the note, which
`check` acts on.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupts:
    """What has been asked by Ctrl-C since `noticed` began."""

    def __init__(self) -> None:
        self.asked = False
        self._ready = False

    @contextlib.contextmanager
    def noticed(self) -> Iterator[None]:
        """Note each Ctrl-C inside; the handlers from before are back afterwards."""
        self.asked = self._ready = False
        if threading.current_thread() is not threading.main_thread():  # elsewhere Python does not allow it
            yield
            return
        before, hook = signal.signal(signal.SIGINT, self._note), sys.unraisablehook
        sys.unraisablehook = _quiet_about_interrupts
        try:
            yield
        finally:
            sys.unraisablehook = hook
            signal.signal(signal.SIGINT, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        at_once = self._ready or self.asked
        self.asked = True
        if at_once:
            raise KeyboardInterrupt

    def ready(self) -> None:
        """From here on Ctrl-C interrupts at once.

        Raises:
            KeyboardInterrupt: it has been asked for already.
        """
        self._ready = True
        self.check()

    def check(self) -> None:
        """Act on a Ctrl-C that was noted and then lost.

        Raises:
            KeyboardInterrupt: there was one.
        """
        if self.asked:
            raise KeyboardInterrupt


def _quiet_about_interrupts(unraisable: Any) -> None:
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


interrupts = Interrupts()
"""Of this process: signals are the process's own."""
