"""The columns every record of one evaluation shares, and the one way in which an evaluation is taken up again.

An evaluation measures cell after cell. Each finished cell goes at once to `on_records` (append it to a file there);
a cell whose records are all in `done` (read them from that file) is not measured again. Both kinds are returned:

    found = read_records(path) if path.exists() else []
    perplexity(model, ids, lengths=[512, 1024], done=found, on_records=partial(append_records, path))

A record in `done` counts when it has a value and run, method, model, train_length, seed, task, metric, length and depth
agree; a null, kept where a model gave no finite number, is measured again. Settings that are no column (stride,
variant, trials) are not compared: use another file, or another `run`, when they change.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from transformers import PreTrainedModel

from longspan.records import Record
from longspan.scores import Score

OnRecords = Callable[[list[Record]], Any]
OnScores = Callable[[list[Score]], Any]

_log = logging.getLogger(__name__)


def _key(record: Record) -> tuple[Any, ...]:
    return (
        record.run,
        record.method,
        record.model,
        record.train_length,
        record.seed,
        record.task,
        record.metric,
        record.length,
        record.depth,
    )


def method_in_force(model: PreTrainedModel) -> str:
    """Methods of `model` as `longspan methods` spells them; `rope` for a model that was never changed."""
    from longspan.registry import format_methods
    from longspan.surgery import current_methods

    return format_methods(current_methods(model)) or "rope"


def length_trained(model: PreTrainedModel) -> int | None:
    """Tokens of the window that `model` was trained at, as its config (or the surgery on it) says."""
    from longspan.surgery import original_length

    return original_length(model)


class Journal:
    """Records of one task on one model: those found in `done`, and those measured now, in the order of the cells."""

    def __init__(
        self,
        model: PreTrainedModel,
        task: str,
        *,
        run: str,
        method: str | None,
        model_name: str | None,
        train_length: int | None,
        seed: int | None,
        done: Iterable[Record],
        on_records: OnRecords | None,
    ) -> None:
        self.columns: dict[str, Any] = {
            "run": run,
            "method": method_in_force(model) if method is None else method,
            "model": (model.config.name_or_path or model.config.model_type) if model_name is None else model_name,
            "train_length": length_trained(model) if train_length is None else train_length,
            "seed": seed,
            "task": task,
        }
        self.records: list[Record] = []
        self._done = {_key(record): record for record in done if record.value is not None}
        self._on_records = on_records

    def record(self, metric: str, value: float, **columns: Any) -> Record:
        """A record with the shared columns. A value that is no finite number becomes null, with a warning."""
        if not math.isfinite(value):
            place = f"length {columns.get('length')}, depth {columns.get('depth')}"
            _log.warning("%s %s at %s is %s: kept as null", self.columns["task"], metric, place, value)
            return Record(metric=metric, value=None, **{**self.columns, **columns, "low": None, "high": None})
        return Record(metric=metric, value=value, **{**self.columns, **columns})

    def score(self, name: str, values: dict[str, float], **columns: Any) -> Score:
        """What one document or prompt scored, under the shared columns; `name` says which text it was."""
        shared = {key: value for key, value in self.columns.items() if key != "train_length"}
        return Score(sample=name, values=values, **shared, **columns)

    def cell(
        self, metrics: Sequence[str], length: int, depth: float | None, measure: Callable[[], list[Record]]
    ) -> list[Record]:
        """Records of one cell, one a metric: found in `done`, else measured now and handed on."""
        return self.cells(_columns(metrics, length, depth), measure)

    def found(self, metrics: Sequence[str], length: int, depth: float | None) -> bool:
        """Whether `cell` would find these records and not measure."""
        return all(key in self._done for key in self._keys(_columns(metrics, length, depth)))

    def cells(self, wanted: Sequence[dict[str, Any]], measure: Callable[[], list[Record]]) -> list[Record]:
        """Records that are measured together, each named by metric, length and depth: found, or measured now."""
        keys = self._keys(wanted)
        if all(key in self._done for key in keys):
            records = [self._done[key] for key in keys]
        else:
            records = measure()
            assert [_key(record) for record in records] == keys, "a measured cell must have the records it is found by"
            if self._on_records is not None:
                self._on_records(records)
        self.records += records
        return records

    def _keys(self, wanted: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [_key(Record(value=None, **{**self.columns, **columns})) for columns in wanted]


def _columns(metrics: Sequence[str], length: int, depth: float | None) -> list[dict[str, Any]]:
    return [{"metric": metric, "length": length, "depth": depth} for metric in metrics]
