"""The work of `longspan eval`: settings that all have an effect, one protocol a run folder, cells that are kept."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan.cli.options import Common
from longspan.errors import ConfigError, DataError
from longspan.lengths import format_length, parse_length, parse_lengths
from longspan.records import Record

TASKS = ("perplexity", "position", "passkey")
PROTOCOL = "eval.json"
"""What the numbers of a run folder have in common and records have no column for."""


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
    stride: int | None = None
    variant: str = "matched"
    max_targets: int | None = None
    trials: int = 10
    depths: int = 11
    batch_size: int | None = None

    @classmethod
    def parse(cls, *, tasks: str, lengths: str, seed: int, **options: Any) -> Settings:
        """Settings from the command line's words; None stands for an option that was not given.

        Raises:
            ConfigError: an unknown task, a missing text, or an option without effect on these tasks.
            LengthError: a length that cannot be read.
        """
        names = tuple(name.strip() for name in tasks.split(","))
        for name in names:
            if name not in TASKS:
                raise ConfigError(f"--tasks: unknown task '{name}': choose from {', '.join(TASKS)}")
        given = {key: value for key, value in options.items() if value is not None}
        _refuse_useless(names, given)
        for key in ("target_length", "original_length"):
            if key in given:
                given[key] = parse_length(given[key])
        return cls(
            tasks=tuple(dict.fromkeys(names)),
            lengths=tuple(sorted(set(parse_lengths(lengths)))),
            seed=seed,
            **given,
        )

    @property
    def reach(self) -> int:
        """Tokens that `extend` aims at."""
        return self.target_length or max(self.lengths)

    def protocol(self) -> dict[str, Any]:
        """Settings that decide numbers and are no column of a record."""
        kept: dict[str, Any] = {}
        if "perplexity" in self.tasks:
            kept |= {"stride": self.stride, "variant": self.variant, "max_targets": self.max_targets}
        if "passkey" in self.tasks:
            kept |= {"trials": self.trials, "depths": self.depths}
        return kept


def _refuse_useless(tasks: tuple[str, ...], given: dict[str, Any]) -> None:
    needs_text = [name for name in tasks if name != "passkey"]
    if needs_text and "text" not in given:
        raise ConfigError(f"--text is missing: {needs_text[0]} is measured on a text file or folder that you name")
    belongs = {"stride": "perplexity", "variant": "perplexity", "max_targets": "perplexity"}
    belongs |= {"trials": "passkey", "depths": "passkey"}
    for key, task in belongs.items():
        if key in given and task not in tasks:
            raise ConfigError(f"--{key.replace('_', '-')} has no effect without the task {task}: leave it out")
    if "text" in given and not needs_text:
        raise ConfigError("--text has no effect on passkey alone: leave it out")
    for key in ("target_length", "original_length"):
        if key in given and "extend" not in given:
            raise ConfigError(f"--{key.replace('_', '-')} has no effect without --extend: name the methods there")


class Evaluation:
    """One call of `longspan eval` on one model."""

    def __init__(self, model: str, settings: Settings, out: Path, common: Common) -> None:
        self.name = model
        self.settings = settings
        self.out = out
        self.common = common

    def run(self) -> list[Record]:
        """Measure what is not yet in the run folder; return the records of all cells asked for.

        Raises:
            LongspanError: the model, the text or the run folder cannot be used.
        """
        from longspan.equation import fill_slots
        from longspan.models import load_tokenizer
        from longspan.records import append_records, read_records
        from longspan.registry import parse_methods
        from longspan.surgery.families import family_of

        settings = self.settings
        fill_slots(parse_methods(settings.extend or "none"))  # a mistake here shall not wait for the model
        self.common.prepare()
        texts = self._texts()
        tokenizer = load_tokenizer(self.name)
        model = self.common.load_model(self.name)
        family_of(model)
        if settings.extend is not None:
            self._extend(model)
        matched_from = self._keep_protocol(texts, str(model.dtype).removeprefix("torch."))
        path = self.out / "records.jsonl"
        measure = {
            "batch_size": settings.batch_size,
            "run": self.out.resolve().name,
            "model_name": self.name,
            "progress": not self.common.quiet,
            "done": read_records(path) if path.exists() else [],
            "on_records": functools.partial(append_records, path),
        }
        records = []
        for task in settings.tasks:
            more = {"matched_from": matched_from} if task == "perplexity" else {}
            records += self._measure(task, model, tokenizer, texts, {**measure, **more})
        return records

    def _texts(self) -> dict[str, str]:
        """Text by document name; empty if no task reads text."""
        if self.settings.text is None:
            return {}
        from longspan.data.text import read_documents

        return {document.name: document.text for document in read_documents(self.settings.text)}

    def _extend(self, model: Any) -> None:
        from longspan import surgery

        settings = self.settings
        surgery.extend(
            model,
            settings.extend or "none",
            target_length=settings.reach,
            original_length=settings.original_length,
        )

    def _keep_protocol(self, texts: dict[str, str], dtype: str) -> int | None:
        """Make sure that the folder's numbers were measured as these will be, and write down how that is.

        Returns:
            Where the targets of `matched` perplexity begin: the folder's, unless these lengths reach further.

        Raises:
            ConfigError: they were measured otherwise.
        """
        from longspan.files import value_hash, write_json
        from longspan.models import fingerprint

        path = self.out / PROTOCOL
        before = _read_protocol(path)
        now = {**self.settings.protocol(), "dtype": dtype, f"content of {self.name}": fingerprint(self.name)}
        if texts:
            now["text"] = value_hash(texts)
        if self.settings.extend is not None:
            now[f"target_length of {self.settings.extend} on {self.name}"] = self.settings.reach
        matched_from = None
        if now.get("variant") == "matched":
            longest = max(self.settings.lengths)
            matched_from = now["matched_from"] = max(longest, before.get("matched_from", longest))
        for key, value in now.items():
            if key in before and before[key] != value:
                raise ConfigError(
                    f"{self.out} was measured with another {key} ({before[key]}, now {value}): "
                    "numbers of two kinds do not belong in one folder, choose another --out"
                )
        write_json(path, {**before, **now})
        return matched_from

    def _measure(
        self, task: str, model: Any, tokenizer: Any, texts: dict[str, str], measure: dict[str, Any]
    ) -> list[Record]:
        from longspan import evaluate

        settings = self.settings
        if task == "passkey":
            return evaluate.passkey(
                model,
                tokenizer,
                lengths=settings.lengths,
                depths=settings.depths,
                trials=settings.trials,
                seed=settings.seed,
                **measure,
            )
        ids = _encode(tokenizer, texts)
        measure = {**measure, "bos_id": tokenizer.bos_token_id}
        if task == "position":
            return evaluate.position_curve(model, ids, length=max(settings.lengths), **measure)
        return evaluate.perplexity(
            model,
            ids,
            lengths=settings.lengths,
            stride=settings.stride,
            variant=settings.variant,
            max_targets=settings.max_targets,
            **measure,
        )

    def tables(self, records: list[Record]) -> list[str]:
        """Markdown tables of what was measured by length."""
        from longspan.report import markdown_table

        tables = []
        for task in self.settings.tasks:
            mine = [record for record in records if record.task == task]
            if task == "position":
                length = format_length(max(self.settings.lengths))
                tables.append(f"position: loss at {len(mine)} places of a window of {length}, in the records\n")
            else:
                tables.append(f"{task}\n\n{markdown_table(mine, task=task)}")
        return tables


def _encode(tokenizer: Any, texts: dict[str, str]) -> list[Any]:
    import torch

    return [
        torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False).input_ids, dtype=torch.long)
        for text in texts.values()
    ]


def _read_protocol(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it, or choose another --out") from error
