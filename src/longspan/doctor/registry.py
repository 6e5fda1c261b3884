"""One list of checks: a function decorated with `check` is asked of every model, in the order of definition."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from longspan.doctor.finding import Finding
from longspan.doctor.probe import Probe


@dataclass(frozen=True, slots=True)
class Question:
    """A check: its function, what it asks, what it holds the answer against, and what to do if it fails."""

    name: str
    ask: Callable[[Probe], Finding]
    holds: str
    advice: str

    @property
    def text(self) -> str:
        """What is asked, in one line: the first line of the function's docstring."""
        return (inspect.getdoc(self.ask) or "").partition("\n")[0]

    @property
    def subject(self) -> str:
        """The file of checks that it stands in."""
        return self.ask.__module__.rpartition(".")[2]


CHECKS: dict[str, Question] = {}
"""Every check by its name."""


def check(*, holds: str, advice: str) -> Callable[[Callable[[Probe], Finding]], Callable[[Probe], Finding]]:
    """Register a function as a check under its own name.

    Args:
        holds: what must hold for it to pass, for the page of checks.
        advice: what to do if it does not.
    """

    def register(function: Callable[[Probe], Finding]) -> Callable[[Probe], Finding]:
        CHECKS[function.__name__] = Question(function.__name__, function, holds, advice)
        return function

    return register
