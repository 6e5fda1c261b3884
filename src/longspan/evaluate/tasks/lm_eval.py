"""Tasks of lm-evaluation-harness on the model as it is in memory, one length a run."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from longspan.errors import ConfigError, DataError
from longspan.evaluate.task import Bench, Task

if TYPE_CHECKING:
    from longspan.evaluate.journal import Journal
    from longspan.records import Record


@dataclass(frozen=True, slots=True)
class LmEval(Task):
    """Run a task of lm-evaluation-harness on the very model that is measured, each length by itself.

    `lm_eval:NAME`, with lm-eval's own tasks and those in the YAML files of `--data`. A length is the most that prompt
    and answer may have (`max_length`), and what its tasks of many lengths are told to make (`max_seq_lengths`), so that
    none is dropped. The numbers become records: their metric is lm-eval's (`acc` is called accuracy), with its filter
    behind a slash unless that is `none`; the interval is 1.96 of its standard errors, n the samples it used. A group
    gives the records of each of its tasks, with the task before the metric. Most of its tasks load their data from the
    Hub; with HF_HUB_OFFLINE=1 they read what is on this machine.
    """

    task: str

    reads: ClassVar[frozenset[str]] = frozenset({"data", "max_samples"})

    def settings(self, bench: Bench, name: str) -> dict[str, Any]:
        from importlib.metadata import version

        from longspan.files import file_hash

        _manager(bench, self.task)
        read = {"lm_eval": version("lm_eval"), "max_samples": bench.options.get("max_samples")}
        folder = bench.options.get("data")
        if folder is not None:
            read["tasks of lm-eval"] = {path.name: file_hash(path)[:12] for path in sorted(Path(folder).glob("*.y*ml"))}
        return read

    def measure(self, bench: Bench, name: str) -> list[Record]:
        from longspan.evaluate.journal import Journal

        journal = Journal(bench.model, name, **{"seed": bench.seed, **bench.columns})
        for length in bench.lengths:
            found = [record for record in bench.columns["done"] if (record.task, record.length) == (name, length)]
            # its metrics are known when it has run, so what an earlier run found says which they are
            metrics = [record.metric for record in found]
            if metrics and journal.found(metrics, length, None):
                journal.cell(metrics, length, None, list)
                continue
            records = self._run(bench, journal, length)
            journal.cell([record.metric for record in records], length, None, functools.partial(list, records))
        return journal.records

    def _run(self, bench: Bench, journal: Journal, length: int) -> list[Record]:
        from longspan.evaluate.forward import evaluating

        lm_eval, models = _library("lm_eval"), _library("lm_eval.models.huggingface")
        with evaluating(bench.model), _failing_clearly(self.task):
            wrapped = models.HFLM(
                pretrained=bench.model,
                tokenizer=bench.tokenizer,
                max_length=length,
                batch_size=bench.batch_size or 1,
                add_bos_token=bench.tokenizer.bos_token_id is not None,
            )
            made = {"max_seq_lengths": [length], "tokenizer": bench.tokenizer.name_or_path}
            result = lm_eval.simple_evaluate(
                model=wrapped,
                tasks=[self.task],
                task_manager=_manager(bench, self.task, made),
                limit=bench.options.get("max_samples"),
                bootstrap_iters=1000,
                random_seed=bench.seed,
                numpy_random_seed=bench.seed,
                torch_random_seed=bench.seed,
                fewshot_random_seed=bench.seed,
                log_samples=False,
                metadata=made,
            )
        return [
            record
            for task, numbers in result["results"].items()
            for record in _records(
                journal, length, "" if task == self.task else f"{task} ", numbers, _used(result, task)
            )
        ]


def _used(result: dict[str, Any], task: str) -> int | None:
    counts = result.get("n-samples", {}).get(task)
    return None if counts is None else int(counts["effective"])


def _records(journal: Journal, length: int, before: str, numbers: dict[str, Any], used: int | None) -> Iterator[Record]:
    """Records of one of lm-eval's rows: `metric,filter` -> number, `metric_stderr,filter` -> its standard error."""
    from longspan.intervals import Z_95

    for key, value in numbers.items():
        metric, comma, sieve = key.partition(",")
        # its tasks of many lengths call their scores by the length, and give -1 for those that were not asked for
        other_length = metric.isdigit() and int(metric) != length
        if not comma or metric.endswith("_stderr") or other_length or not isinstance(value, int | float):
            continue
        error = numbers.get(f"{metric}_stderr,{sieve}")
        half = Z_95 * error if isinstance(error, int | float) and math.isfinite(error) else None
        called = {"acc": "accuracy", str(length): "recall"}.get(metric, metric) + (
            "" if sieve == "none" else f"/{sieve}"
        )
        yield journal.record(
            before + called,
            float(value),
            length=length,
            depth=None,
            n=used,
            low=None if half is None else float(value) - half,
            high=None if half is None else float(value) + half,
        )


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError("tasks of lm-eval need it: pip install 'longspan[lm-eval]'") from error


def _manager(bench: Bench, task: str, metadata: dict[str, Any] | None = None) -> Any:
    """What finds `task`: in the user's folder, or among lm-eval's own, whose thousands of files take a while to read.

    Raises:
        ConfigError: there is no such folder, or no such task.
    """
    folder = bench.options.get("data")
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"--data: no folder {folder}")
    tasks = _library("lm_eval.tasks")
    for defaults in (False, True) if folder is not None else (True,):
        manager = tasks.TaskManager(include_path=folder, include_defaults=defaults, metadata=metadata)
        if task in manager.all_tasks:
            return manager
    raise ConfigError(
        f"lm-eval has no task '{task}': see `lm-eval ls tasks`, or name a folder of YAML tasks with --data"
    )


@contextlib.contextmanager
def _failing_clearly(task: str) -> Iterator[None]:
    """Turn what a task cannot load into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, LookupError) as error:
        reason = (str(error).strip().split("\n") or [""])[0]
        raise DataError(f"lm-eval cannot run '{task}' ({reason}): is its data on this machine?") from error


OPEN = LmEval
