"""Records gathered into lines (an arm under an extension) and cells (one number with its seeds)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from longspan.errors import DataError
from longspan.records import Record

PLAIN = "plain"
"""Name of the extension of an arm that is measured as it was trained."""

Key = TypeVar("Key", int, float, tuple[int, float])

METRICS = {"perplexity": "perplexity", "passkey": "accuracy", "position": "nll", "train": "loss"}
"""The metric that stands for a task where only one can be shown."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one line of a chart and one row of a table stand for."""

    arm: str
    extension: str
    label: str
    """Both in words, for legends: `coca-exact + yarn`."""
    color: int
    """Number of the colour: by arm, or by extension if there is one arm only."""
    dash: int
    """Number of the dash pattern: by extension, 0 for the arm as it was trained."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number: the mean over seeds with their lowest and highest, or a single seed's value with its interval."""

    value: float
    low: float | None
    high: float | None
    seeds: tuple[tuple[int | None, float], ...]
    n: int | None

    @property
    def finite(self) -> bool:
        """Whether the number can be drawn."""
        return math.isfinite(self.value)


class Results:
    """The records of one or several runs, by line. A number measured twice counts once, the later one."""

    def __init__(self, records: Sequence[Record]) -> None:
        if not records:
            raise DataError("there are no records to report: run `longspan eval` or `longspan compare` first")
        self.records = [record for record in records if record.value is not None]
        self._arms = _arm_names(records)
        self._extensions = _extension_names(records, self._arms)
        self.arms = list(dict.fromkeys(self._arms.values()))
        found = dict.fromkeys(self._extensions.values())
        self.extensions = sorted(found, key=lambda extension: extension != PLAIN)
        kinds = dict.fromkeys((record.run, record.model, record.method) for record in records)
        self._lines = {kind: self._line(*kind) for kind in kinds}
        self.lines = sorted(
            set(self._lines.values()),
            key=lambda line: (self.arms.index(line.arm), self.extensions.index(line.extension)),
        )
        self.train_lengths = sorted({record.train_length for record in records if record.train_length})

    def line_of(self, record: Record) -> Line:
        """The line that `record` belongs to."""
        return self._lines[record.run, record.model, record.method]

    def _line(self, run: str, model: str, method: str) -> Line:
        arm = self._arms[run, model]
        extension = self._extensions[arm, method]
        several_arms = len(self.arms) > 1
        alone = len([other for other, _ in self._extensions if other == arm]) == 1
        label = arm if extension == PLAIN or (alone and several_arms) else f"{arm} + {extension}"
        if not several_arms:
            return Line(arm, extension, label, self.extensions.index(extension), 0)
        dash = 0 if label == arm else self.extensions.index(extension)
        return Line(arm, extension, label, self.arms.index(arm), dash)

    def select(self, task: str, metric: str | None = None) -> Iterator[Record]:
        """Records of `task` with its usual metric, or the one named."""
        metric = metric or METRICS[task]
        return (record for record in self.records if record.task == task and record.metric == metric)

    def by_length(self, task: str, metric: str | None = None) -> dict[Line, dict[int, Cell]]:
        """Cells over all depths by line and length, for the lines that have any."""
        rows = ((r, r.length) for r in self.select(task, metric) if r.depth is None and r.length is not None)
        return self._gather(rows)

    def by_depth(self, task: str, metric: str | None = None) -> dict[Line, dict[tuple[int, float], Cell]]:
        """Cells by line, length and depth, for the lines that have any."""
        rows = (
            (r, (r.length, r.depth)) for r in self.select(task, metric) if r.depth is not None and r.length is not None
        )
        return self._gather(rows)

    def training(self) -> dict[Line, dict[float, Cell]]:
        """Training loss by line and share of the training done (0 to 1), which is these records' depth."""
        return self._gather((r, r.depth) for r in self.select("train") if r.depth is not None)

    def _gather(self, rows: Iterable[tuple[Record, Key]]) -> dict[Line, dict[Key, Cell]]:
        found: dict[Line, dict[Key, dict[int | None, Record]]] = {}
        for record, key in rows:
            found.setdefault(self.line_of(record), {}).setdefault(key, {})[record.seed] = record
        order = [line for line in self.lines if line in found]
        return {line: {key: _cell(found[line][key]) for key in sorted(found[line])} for line in order}


def lengths_of(cells: Mapping[Line, Mapping[int, Cell]]) -> list[int]:
    """Every length in `cells`, shortest first."""
    return sorted({length for row in cells.values() for length in row})


def _cell(by_seed: dict[int | None, Record]) -> Cell:
    values = {seed: record.value for seed, record in by_seed.items() if record.value is not None}
    seeds = tuple(sorted(values.items(), key=lambda item: -1 if item[0] is None else item[0]))
    n = sum(record.n or 0 for record in by_seed.values()) or None
    if len(seeds) == 1:
        only = next(iter(by_seed.values()))
        return Cell(seeds[0][1], only.low, only.high, seeds, n)
    numbers = [value for _, value in seeds]
    return Cell(sum(numbers) / len(numbers), min(numbers), max(numbers), seeds, n)


def _arm_names(records: Sequence[Record]) -> dict[tuple[str, str], str]:
    """A short name for each (run, model): the folder's own, and the whole path or the run where that is not enough."""
    pairs = list(dict.fromkeys((record.run, record.model) for record in records))

    def ambiguous(names: dict[tuple[str, str], str]) -> bool:
        return len(set(names.values())) < len(names)

    names = {(run, model): _folder_name(model) for run, model in pairs}
    if ambiguous(names):
        names = {(run, model): model for run, model in pairs}
    if ambiguous(names):
        names = {(run, model): f"{run}: {_folder_name(model)}" for run, model in pairs}
    return names


def _folder_name(model: str) -> str:
    parts = [part for part in model.split("/") if part not in ("", ".", "checkpoint")]
    return parts[-1] if parts else model


def _extension_names(records: Sequence[Record], arms: dict[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """For each (arm, method): what the method adds to that which all measurements of the arm have in common.

    An arm measured under one method only shows what others add (`coca` beside arms that add `yarn` is plain); if
    nobody adds anything, the method itself is shown, since records do not say what a model was trained with.
    """
    methods: dict[str, dict[str, list[str]]] = {}
    for record in records:
        parts = [part for part in split_methods(record.method) if part not in ("rope", "none", "")]
        methods.setdefault(arms[record.run, record.model], {})[record.method] = parts
    base = {arm: set.intersection(*map(set, found.values())) for arm, found in methods.items()}
    several = [arm for arm in methods if len(methods[arm]) > 1]
    added = {part for arm in several for parts in methods[arm].values() for part in parts if part not in base[arm]}
    names = {}
    for arm, found in methods.items():
        for method, parts in found.items():
            alone = len(found) == 1
            kept = [part for part in parts if (part in added or not added if alone else part not in base[arm])]
            names[arm, method] = "+".join(kept) or PLAIN
    return names


def split_methods(spelled: str) -> list[str]:
    """`coca(form='slack')+yarn` -> [`coca(form='slack')`, `yarn`]; a plus inside parentheses or quotes stays."""
    return [part.strip() for part in re.findall(r"(?:[^+('\"]|\([^)]*\)|'[^']*'|\"[^\"]*\")+", spelled)]
