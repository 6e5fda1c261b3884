"""Records gathered into lines (an arm under an extension) and cells (one number with its seeds)."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from longspan.errors import DataError
from longspan.records import Record

PLAIN = "plain"
"""Name of the extension of an arm that is measured as it was trained."""

Key = TypeVar("Key", int, float, tuple[int, float])

METRICS = {"perplexity": "perplexity", "passkey": "accuracy", "position": "nll", "train": "loss"}
"""The metric that stands for a task where only one can be shown; `accuracy` for any other task."""
_ABOUT_TRAINING = {"train", "gate"}
"""Tasks that say how an arm was made, not what it measures by length."""


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
    short: str = ""
    """The label with as few settings as tell the lines apart: `coca-exact + yarn`."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number: the mean over seeds with their lowest and highest, or a single seed's value with its interval."""

    value: float
    low: float | None
    high: float | None
    seeds: tuple[tuple[int | None, float], ...]
    n: int | None
    bound: float | None = None
    """The lowest lower end of its records' 95 % intervals; None where one has no interval."""

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
        measured = _measured_or_all(records)
        self._extensions = _extension_names(measured, self._arms)
        self.arms = list(dict.fromkeys(self._arms.values()))
        found = dict.fromkeys(self._extensions.values())
        self.extensions = sorted(found, key=lambda extension: extension != PLAIN)
        kinds = dict.fromkeys((record.run, record.model, record.method) for record in measured)
        lines = {kind: self._line(*kind) for kind in kinds}
        short = _short_labels({line.label for line in lines.values()})
        self._lines = {kind: dataclasses.replace(line, short=short[line.label]) for kind, line in lines.items()}
        self.lines = sorted(
            set(self._lines.values()),
            key=lambda line: (self.arms.index(line.arm), self.extensions.index(line.extension)),
        )
        self._trained: dict[Line, set[int]] = {line: set() for line in self.lines}
        for record in measured:
            if record.train_length:
                self._trained[self.line_of(record)].add(record.train_length)
        self._cells: dict[tuple[str, str], dict[Line, dict[int, Cell]]] = {}
        self.train_lengths = sorted({record.train_length for record in records if record.train_length})

    def line_of(self, record: Record) -> Line:
        """The line that `record` belongs to; training belongs to its arm as it was trained."""
        kind = record.run, record.model, record.method
        if kind in self._lines:
            return self._lines[kind]
        arm = self._arms[record.run, record.model]
        return next(line for line in self.lines if line.arm == arm)

    def line_named(self, run: str, model: str, method: str) -> Line | None:
        """The line measured under these columns, or None."""
        return self._lines.get((run, model, method))

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

    @property
    def measures(self) -> list[tuple[str, str]]:
        """Every (task, metric) that there is by length, in the order of the records."""
        whole = (r for r in self.records if r.depth is None and r.length is not None and r.task not in _ABOUT_TRAINING)
        return list(dict.fromkeys((record.task, record.metric) for record in whole))

    def trained(self, line: Line) -> set[int]:
        """The training lengths of `line`: one, unless its records disagree."""
        return self._trained[line]

    def alone(self, line: Line) -> bool:
        """Whether `line` is the only one of its arm, and there are others."""
        return len(self.arms) > 1 and sum(other.arm == line.arm for other in self.lines) == 1

    def select(self, task: str, metric: str | None = None) -> Iterator[Record]:
        """Records of `task` with its usual metric, or the one named."""
        metric = metric or METRICS.get(task, "accuracy")
        return (record for record in self.records if record.task == task and record.metric == metric)

    def by_length(self, task: str, metric: str | None = None) -> dict[Line, dict[int, Cell]]:
        """Cells over all depths by line and length, for the lines that have any."""
        place = task, metric or METRICS.get(task, "accuracy")
        if place not in self._cells:
            rows = ((r, r.length) for r in self.select(*place) if r.depth is None and r.length is not None)
            self._cells[place] = self._gather(rows)
        return self._cells[place]

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
    lows = [record.low for record in by_seed.values() if record.low is not None]
    bound = min(lows) if len(lows) == len(by_seed) else None
    if len(seeds) == 1:
        only = next(iter(by_seed.values()))
        return Cell(seeds[0][1], only.low, only.high, seeds, n, bound)
    numbers = [value for _, value in seeds]
    return Cell(sum(numbers) / len(numbers), min(numbers), max(numbers), seeds, n, bound)


def _measured_or_all(records: Sequence[Record]) -> list[Record]:
    """Records of arms that were measured, without those of their training; all of an arm that has no others.

    Methods may be spelled otherwise in training, where they hold what the run has yet to fill in.
    """
    measured = {(record.run, record.model) for record in records if record.task not in _ABOUT_TRAINING}
    return [r for r in records if r.task not in _ABOUT_TRAINING or (r.run, r.model) not in measured]


def _short_labels(labels: set[str]) -> dict[str, str]:
    """Each label without the settings in parentheses, or with their values alone where lines would be mixed up."""
    bare = {label: re.sub(r"\([^()]*\)", "", label) for label in labels}
    values = {label: re.sub(r"\w+=", "", label).replace("'", "") for label in labels}
    count, valued = Counter(bare.values()), Counter(values.values())
    return {
        label: bare[label] if count[bare[label]] == 1 else values[label] if valued[values[label]] == 1 else label
        for label in labels
    }


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
