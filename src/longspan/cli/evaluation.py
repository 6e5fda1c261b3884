"""The work of `longspan eval`: settings that all have an effect, one protocol a run folder, cells that are kept."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longspan.cli.options import COMMAND, Common
from longspan.cli.run_folder import RunFolder
from longspan.errors import ConfigError
from longspan.lengths import format_length, parse_length, parse_lengths
from longspan.records import Record

TASKS = ("perplexity", "position", "passkey")


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


def _refuse_useless(tasks: tuple[str, ...], given: dict[str, Any]) -> None:
    needs_text = [name for name in tasks if name != "passkey"]
    if needs_text and "text" not in given:
        raise ConfigError(f"--text is missing: {needs_text[0]} is measured on a text file or folder that you name")
    belongs = {"stride": "perplexity", "variant": "perplexity", "max_targets": "perplexity"}
    belongs |= {"trials": "passkey", "depths": "passkey", "decoding": "passkey"}
    for key, task in belongs.items():
        if key in given and task not in tasks:
            raise ConfigError(f"--{key.replace('_', '-')} has no effect without the task {task}: leave it out")
    if "text" in given and not needs_text:
        raise ConfigError("--text has no effect on passkey alone: leave it out")
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

    def run(self) -> list[Record]:
        """Measure what is not yet in the run folder; return the records of all cells asked for.

        Raises:
            LongspanError: the model, the text or the run folder cannot be used.
        """
        from longspan import evaluate, surgery
        from longspan.equation import fill_slots
        from longspan.registry import parse_methods
        from longspan.surgery.families import family_of

        settings = self.settings
        fill_slots(parse_methods(settings.extend or "none"))  # a mistake here shall not wait for the model
        self.common.prepare()
        folder = RunFolder(self.out)
        texts = self._texts()
        tokenizer = self.common.load_tokenizer(self.name)
        if "passkey" in settings.tasks:
            evaluate.check_passkey_lengths(tokenizer, settings.lengths)
        model = self.common.load_model(self.name)
        family_of(model)
        if settings.extend is not None:
            self._extend(model)
        documents = _encode(tokenizer, texts)
        protocols = {task: self._protocol(task, folder, model, texts, documents) for task in settings.tasks}
        for protocol in protocols.values():
            folder.check(protocol)
        evaluate.check_finite(model, min(surgery.original_length(model), *settings.lengths))
        folder.make()
        folder.note(COMMAND.get())
        records = []
        for task, protocol in protocols.items():
            measure = {
                "batch_size": settings.batch_size,
                "run": self.out.resolve().name,
                "model_name": self.name,
                "progress": not self.common.quiet,
                "done": folder.records,
                "on_records": functools.partial(folder.keep, protocol),
            }
            records += self._measure(task, model, tokenizer, documents, protocol, folder, measure)
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
            again=settings.again,
        )

    def _protocol(
        self, task: str, folder: RunFolder, model: Any, texts: dict[str, str], documents: list[Any]
    ) -> dict[str, Any]:
        """Settings that decide the numbers of `task` and are no column of a record, each as it takes effect.

        Raises:
            LengthError, DataError: lengths that contradict the stride, or no document that is long enough.
            ConfigError: lengths that do not fit those measured before.
        """
        from longspan.evaluate.windows import as_documents, long_enough, make_protocol
        from longspan.files import value_hash
        from longspan.models import fingerprint

        settings = self.settings
        dtype = str(model.dtype).removeprefix("torch.")
        kept = {"dtype": dtype, "attention": model.config._attn_implementation}
        kept[f"content of {self.name}"] = fingerprint(self.name)
        if settings.extend is not None:
            kept[f"target_length of {settings.extend} on {self.name}"] = settings.reach
        if task == "passkey":
            return kept | {
                "trials": settings.trials,
                "depths": settings.depths,
                "decoding": settings.decoding,
                "filler": "template",
            }
        kept["text"] = value_hash(texts)
        documents = as_documents(documents, model.get_input_embeddings().weight.shape[0])
        if task == "position":
            return kept | {"position documents": len(long_enough(documents, max(settings.lengths) - 1))}
        longest = folder.longest(settings.lengths, settings.variant)
        windows = make_protocol(settings.lengths, settings.stride, settings.variant, longest, settings.max_targets)
        return kept | {
            "variant": settings.variant,
            "longest": longest,
            "perplexity documents": len(long_enough(documents, windows.shortest_document)),
            "max_targets": settings.max_targets or "all",
            "stride": settings.stride or "a quarter of the window, at most 512",
            **{f"stride at {length}": windows.stride_at(length) for length in settings.lengths},
        }

    def _measure(
        self,
        task: str,
        model: Any,
        tokenizer: Any,
        documents: list[Any],
        protocol: dict[str, Any],
        folder: RunFolder,
        measure: dict[str, Any],
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
                decoding=settings.decoding,
                on_scores=folder.keep_scores,
                **measure,
            )
        measure = {**measure, "bos_id": tokenizer.bos_token_id}
        if task == "position":
            return evaluate.position_curve(model, documents, length=max(settings.lengths), **measure)
        vocab_size = model.get_input_embeddings().weight.shape[0]
        return evaluate.perplexity(
            model,
            documents,
            lengths=settings.lengths,
            stride=settings.stride,
            variant=settings.variant,
            matched_from=protocol["longest"],
            max_targets=settings.max_targets,
            token_bytes=evaluate.token_byte_counts(tokenizer, vocab_size),
            on_scores=folder.keep_scores,
            **measure,
        )

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
            else:
                tables.append(f"{task}\n\n{markdown_table(mine, task=task)}")
        return tables


def _encode(tokenizer: Any, texts: dict[str, str]) -> list[Any]:
    import torch

    return [
        torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False).input_ids, dtype=torch.long)
        for text in texts.values()
    ]
