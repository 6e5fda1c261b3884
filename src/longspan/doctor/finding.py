"""What a check gives back: a finding, or the reason why it does not apply."""

from __future__ import annotations

from dataclasses import dataclass


class DoesNotApply(Exception):
    """Raised by a check that has nothing to ask of this model; its text is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check measured."""

    passed: bool
    measured: float | str
    threshold: float | str
    detail: str = ""


def at_most(measured: float, threshold: float, detail: str = "") -> Finding:
    """Passes while `measured` does not exceed `threshold`; what is not a number fails."""
    return Finding(passed=measured <= threshold, measured=measured, threshold=threshold, detail=detail)
