"""What the doctor found: one row a check, as a table for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass
from typing import Any

WIDTH = 120
_RESULTS = {True: "ok", False: "FAILED", None: "-"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question to the model, and its answer."""

    name: str
    passed: bool | None
    """None: the check does not apply; `detail` says why."""
    measured: float | str | None = None
    threshold: float | str | None = None
    """What `measured` was held against."""
    detail: str = ""
    """What was found, in one line."""
    advice: str = ""
    """What to do if it failed."""


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one model. `print(report)` is the table."""

    model: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)

    def __getitem__(self, name: str) -> Check:
        """The check of that name."""
        return {check.name: check for check in self.checks}[name]

    def to_json(self) -> dict[str, Any]:
        """The report as `--json` writes it."""
        return {
            "model": self.model,
            "passed": self.passed,
            "checks": [dataclasses.asdict(check) for check in self.checks],
        }

    def __str__(self) -> str:
        rows = [("check", "result", "measured", "threshold", "found")]
        rows += [
            (check.name, _RESULTS[check.passed], _number(check.measured), _number(check.threshold), check.detail)
            for check in self.checks
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [self.model, "(differences of logits are in standard deviations of the logits)"]
        for row in rows:
            head = "  ".join(f"{text:{width}}" for text, width in zip(row[:4], widths, strict=True)) + "  "
            lines += textwrap.wrap(head + row[4], WIDTH, subsequent_indent=" " * len(head), drop_whitespace=True)
        lines += [f"{check.name}: {check.advice}" for check in self.failed]
        counts = {result: sum(check.passed is result for check in self.checks) for result in _RESULTS}
        lines.append(f"{counts[True]} passed, {counts[False]} failed, {counts[None]} do not apply")
        return "\n".join(lines)


def _number(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.3g}" if isinstance(value, float) else str(value)
