"""The work of `longspan eval`: settings that all have an effect, one protocol a run folder, cells that are kept."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longspan.cli.options import COMMAND, Common
from longspan.cli.run_folder import RunFolder
from longspan.errors import ConfigError
from longspan.lengths import format_length, parse_length, parse_lengths
from longspan.processes import ALONE
from longspan.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to measure and how."""

    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    seed: int
    text: str | None = None
    extend: str | None = None
    target_length: int | None = None
    original_length: int | None = None
    again: bool = False
    stride: int | None = None
    variant: str = "matched"
    max_targets: int | None = None
    trials: int = 10
    depths: int = 11
    decoding: Literal["auto", "forced", "generate"] = "auto"
    chat: bool = False
    haystack: str | None = None
    data: str | None = None
    overlong: str | None = None
    max_samples: int | None = None
    keep_samples: bool = False
    batch_size: int | None = None

    @classmethod
    def parse(cls, *, tasks: str, lengths: str, seed: int, **options: Any) -> Settings:
        """Settings from the command line's words; None stands for an option that was not given.

        Raises:
            ConfigError: an unknown task, a missing text, or an option without effect on these tasks.
            LengthError: a length that cannot be read.
        """
        from longspan.evaluate.tasks import expand

        names = expand([name.strip() for name in tasks.split(",")])
        given = {key: value for key, value in options.items() if value is not None}
        _refuse_useless(names, given)
        for key in ("target_length", "original_length"):
            if key in given:
                given[key] = parse_length(given[key])
        return cls(
            tasks=names,
            lengths=tuple(sorted(set(parse_lengths(lengths)))),
            seed=seed,
            **given,
        )

    @property
    def reach(self) -> int:
        """Tokens that `extend` aims at."""
        return self.target_length or max(self.lengths)


def _refuse_useless(names: tuple[str, ...], given: dict[str, Any]) -> None:
    from longspan.evaluate.tasks import all_tasks, find_task, open_tasks

    tasks = {name: find_task(name) for name in names}
    needs_text = [name for name, task in tasks.items() if task.needs_text]
    if needs_text and "text" not in given:
        raise ConfigError(f"--text is missing: {needs_text[0]} is measured on a text file or folder that you name")
    needs_data = [name for name, task in tasks.items() if task.needs_data]
    if needs_data and "data" not in given:
        raise ConfigError(f"--data is missing: {needs_data[0]} reads files of an external set, name their folder")
    every = [*all_tasks().values(), *(make("any") for make in open_tasks().values())]
    known = frozenset().union(*(task.reads for task in every))
    read = frozenset().union(*(task.reads for task in tasks.values()))
    for key in given:
        if key in known - read:
            raise ConfigError(f"--{key.replace('_', '-')} has no effect on {', '.join(names)}: leave it out")
    for key in ("target_length", "original_length", "again"):
        if key in given and "extend" not in given:
            raise ConfigError(f"--{key.replace('_', '-')} has no effect without --extend: name the methods there")


class Evaluation:
    """One call of `longspan eval` on one model."""

    def __init__(self, model: str, settings: Settings, out: Path, common: Common) -> None:
        self.name = model
        self.settings = settings
        self.out = out
        self.common = common
        self.processes = ALONE

    def run(self) -> list[Record]:
        """Measure what is not yet in the run folder; return the records of all cells asked for.

        Raises:
            LongspanError: the model, the text or the run folder cannot be used.
        """
        from longspan.evaluate.tasks import find_task
        from longspan.models import torch_device
        from longspan.processes import check_launcher, launched

        self.common.prepare()
        self.processes = launched(on_processors=torch_device(self.common.device or "auto").type == "cpu")
        with self.processes.together():
            check_launcher()
            folder = RunFolder(self.out)
            bench, protocols = self._prepare(folder)
        known = set(self.processes.gather(len(folder.records)))
        with self.processes.together():
            if len(known) > 1:
                raise ConfigError(f"{self.out} is not the same to all processes: choose a place that all of them see")
            if self.processes.first:
                folder.make()
                folder.note(COMMAND.get())
        records = []
        for name in self.settings.tasks:
            keep = self._by_first(functools.partial(folder.keep, protocols[name]))
            columns = {**bench.columns, "on_records": keep}
            records += find_task(name).measure(dataclasses.replace(bench, columns=columns), name)
        return records

    def _by_first(self, keep: Callable[..., None]) -> Callable[..., None]:
        """`keep`, done by the first process alone; where it fails all end."""

        def kept(*told: Any) -> None:
            with self.processes.together():
                if self.processes.first:
                    keep(*told)

        return kept

    def _prepare(self, folder: RunFolder) -> tuple[Any, dict[str, dict[str, Any]]]:
        """What tasks are measured on, and the protocol of each.

        Raises:
            LongspanError: the model or the text cannot be used, or the folder holds numbers of another kind.
        """
        from longspan import evaluate, surgery
        from longspan.equation import fill_slots
        from longspan.evaluate.room import check_memory
        from longspan.registry import parse_methods
        from longspan.surgery.families import family_of

        settings = self.settings
        fill_slots(parse_methods(settings.extend or "none"))  # a mistake here shall not wait for the model
        texts = _read(settings.text)
        tokenizer = self.common.load_tokenizer(self.name)
        haystack = [token for text in _encode(tokenizer, _read(settings.haystack)) for token in text.tolist()]
        model = self.common.load_model(self.name)
        family_of(model)
        check_memory(model, settings.lengths)
        if settings.extend is not None:
            self._extend(model)
        bench = self._bench(folder, model, tokenizer, _encode(tokenizer, texts), haystack)
        protocols = {}
        for name in settings.tasks:
            protocols[name] = self._protocol(name, bench, texts)
            folder.check(protocols[name])
        evaluate.check_finite(model, min(surgery.original_length(model), *settings.lengths))
        return bench, protocols

    def _extend(self, model: Any) -> None:
        from longspan import surgery

        settings = self.settings
        surgery.extend(
            model,
            settings.extend or "none",
            target_length=settings.reach,
            original_length=settings.original_length,
            again=settings.again,
        )

    def _bench(self, folder: RunFolder, model: Any, tokenizer: Any, documents: list[Any], haystack: list[int]) -> Any:
        from longspan.evaluate.task import Bench

        settings = self.settings
        return Bench(
            model=model,
            tokenizer=tokenizer,
            lengths=settings.lengths,
            documents=documents,
            haystack=haystack or None,
            chat=settings.chat,
            trials=settings.trials,
            depths=settings.depths,
            seed=settings.seed,
            decoding=settings.decoding,
            batch_size=settings.batch_size,
            progress=self.processes.first and not self.common.quiet,
            processes=self.processes,
            options={
                "stride": settings.stride,
                "variant": settings.variant,
                "max_targets": settings.max_targets,
                "data": settings.data,
                "overlong": settings.overlong,
                "max_samples": settings.max_samples,
                "matched_from": folder.longest(settings.lengths, settings.variant)
                if "perplexity" in settings.tasks
                else None,
            },
            columns={
                "run": self.out.resolve().name,
                "method": None,
                "model_name": self.name,
                "train_length": None,
                "done": folder.records,
                "on_records": None,
            },
            on_scores=self._by_first(folder.keep_scores),
            on_outcomes=self._by_first(self._keeper(folder, model, tokenizer)) if settings.keep_samples else None,
        )

    def _keeper(self, folder: RunFolder, model: Any, tokenizer: Any) -> Callable[[str, Any], None]:
        from longspan.evaluate.journal import method_in_force

        labels = {"run": self.out.resolve().name, "model": self.name, "method": method_in_force(model)}
        return lambda task, outcomes: folder.keep_samples(labels, task, outcomes, tokenizer)

    def _protocol(self, name: str, bench: Any, texts: dict[str, str]) -> dict[str, Any]:
        """Settings that decide the numbers of `task` and are no column of a record, each as it takes effect.

        Raises:
            LengthError, DataError: lengths that contradict the stride, or no document that is long enough.
        """
        from longspan.evaluate.tasks import find_task
        from longspan.files import value_hash
        from longspan.models import fingerprint

        settings, model = self.settings, bench.model
        dtype = str(model.dtype).removeprefix("torch.")
        kept = {"dtype": dtype, "attention": model.config._attn_implementation}
        kept[f"content of {self.name}"] = fingerprint(self.name)
        if settings.extend is not None:
            kept[f"target_length of {settings.extend} on {self.name}"] = settings.reach
        task = find_task(name)
        if task.needs_text:
            kept["text"] = value_hash(texts)
        return kept | task.settings(bench, name)

    def tables(self, records: list[Record]) -> list[str]:
        """Markdown tables of what was measured by length."""
        from longspan.report import markdown_table

        tables = []
        for task in self.settings.tasks:
            mine = [record for record in records if record.task == task]
            if all(record.value is None for record in mine):
                tables.append(f"{task}: no finite number at any length, so nothing to show\n")
            elif task == "position":
                length = format_length(max(self.settings.lengths))
                tables.append(f"position: loss at {len(mine)} places of a window of {length}, in the records\n")
            elif task in ("perplexity", "passkey"):
                tables.append(f"{task}\n\n{markdown_table(mine, task=task)}")
            else:
                tables.append(_by_length(task, mine))
        return tables


def _read(source: str | None) -> dict[str, str]:
    """Text by document name; empty if none was named."""
    if source is None:
        return {}
    from longspan.data.text import read_documents

    return {document.name: document.text for document in read_documents(source)}


def _encode(tokenizer: Any, texts: dict[str, str]) -> list[Any]:
    import torch

    return [
        torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False).input_ids, dtype=torch.long)
        for text in texts.values()
    ]


def _by_length(task: str, records: list[Record]) -> str:
    """The numbers of `task` over all depths, a line a length."""
    lines = [f"| {task} | value | 95 % | n |", "|---|---|---|---|"]
    for record in records:
        if record.depth is None and record.value is not None:
            between = "–" if record.low is None or record.high is None else f"{record.low:.3f}–{record.high:.3f}"
            place = f"{record.metric} at {format_length(record.length or 0)}"
            lines.append(f"| {place} | {record.value:.3f} | {between} | {record.n} |")
    return "\n".join(lines) + "\n"
