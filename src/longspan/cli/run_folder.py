"""The folder of `longspan eval`: records, and beside them what they have in common and have no column for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan.cli.interrupts import interrupts
from longspan.errors import ConfigError, DataError
from longspan.evaluate.task import Outcome
from longspan.files import storage_errors, write_json, write_text
from longspan.jsonl import append_rows
from longspan.records import Record, append_records, read_records
from longspan.scores import SCORES_FILE, Score, append_scores

PROTOCOL_FILE = "eval.json"
RECORDS_FILE = "records.jsonl"
COMMANDS_FILE = "commands.txt"
"""The commands that measured what the folder holds, one a line."""
SAMPLES_FILE = "samples.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSample:
    """A prompt and what a model made of it: a line of samples.jsonl."""

    run: str
    model: str
    method: str
    task: str
    seed: int
    length: int
    depth: float | None
    trial: int
    distance: int | None
    prompt: str
    references: tuple[str, ...]
    answer: str
    score: float
    nll: float


class RunFolder:
    """Numbers of one kind: measured by one protocol, on one text, with one model under each name."""

    def __init__(self, out: Path) -> None:
        """Read what `out` holds, which may be nothing.

        Raises:
            DataError: a file of the folder cannot be read.
        """
        self.out = out
        self.records = read_records(out / RECORDS_FILE) if (out / RECORDS_FILE).exists() else []
        # without a record nothing has been measured by that protocol
        self.protocol = _read_protocol(out / PROTOCOL_FILE) if self.records else {}

    def longest(self, lengths: tuple[int, ...], variant: str) -> int:
        """Longest window of the folder's perplexities, `lengths` included.

        Raises:
            ConfigError: `lengths` reach beyond the place where the targets of all windows begin.
        """
        before = self.protocol.get("longest", max(lengths))
        if variant == "matched" and max(lengths) > before:
            raise ConfigError(
                f"{self.out}: the longest of --lengths was {before} and matched targets start there, so "
                f"{max(lengths)} does not fit in: choose another --out, or --variant all in a new one"
            )
        return max(before, *lengths)

    def check(self, protocol: dict[str, Any]) -> None:
        """Make sure that the folder's numbers were measured as these will be.

        Raises:
            ConfigError: they were measured otherwise.
        """
        for key, value in protocol.items():
            if key != "longest" and self.protocol.get(key, value) != value:
                raise ConfigError(
                    f"{self.out} was measured with another {key} ({self.protocol[key]}, now {value}): "
                    "numbers of two kinds do not belong in one folder, choose another --out"
                )

    def make(self) -> None:
        """Have the folder there, so that a place that cannot be used is found before anything is measured.

        Raises:
            StorageError: it cannot be made.
        """
        with storage_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)

    def note(self, command: str) -> None:
        """Add `command` to those that measured what the folder holds."""
        path = self.out / COMMANDS_FILE
        known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if command and command not in known:
            write_text(path, "\n".join([*known, command]) + "\n")

    def keep(self, protocol: dict[str, Any], records: list[Record]) -> None:
        """Add `records`, which were measured by `protocol`."""
        merged = {**self.protocol, **protocol}
        if merged != self.protocol:
            write_json(self.out / PROTOCOL_FILE, merged)
            self.protocol = merged
        append_records(self.out / RECORDS_FILE, records)
        interrupts.check()

    def keep_scores(self, scores: list[Score]) -> None:
        """Add what each document or prompt of a cell scored; its records follow."""
        append_scores(self.out / SCORES_FILE, scores)

    def keep_samples(self, labels: dict[str, Any], task: str, outcomes: Sequence[Outcome], tokenizer: Any) -> None:
        """Add prompts and answers of one cell of `task`; a cell that is measured again is there again, later."""
        rows = [
            KeptSample(
                **labels,
                task=task,
                **dataclasses.asdict(outcome.place),
                distance=outcome.sample.distance,
                prompt=tokenizer.decode(outcome.sample.prompt_ids),
                references=outcome.sample.references,
                answer=outcome.answer,
                score=outcome.score,
                nll=outcome.nll,
            )
            for outcome in outcomes
        ]
        append_rows(self.out / SAMPLES_FILE, rows, lambda row: KeptSample(**row))


def _read_protocol(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it, or choose another --out") from error
