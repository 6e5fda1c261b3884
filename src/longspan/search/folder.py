"""The folder of a search: what its numbers rest on, and every individual as a line."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from longspan.errors import ConfigError, DataError
from longspan.files import alone_in, storage_errors, write_json
from longspan.search.evolution import Individual
from longspan.search.factors import Candidate

PROTOCOL_FILE, LOG_FILE, MODEL = "search.json", "search.jsonl", "model"


class SearchFolder:
    """Individuals measured on one model, at one length, on one text: `search.json`, `search.jsonl`, then `model`."""

    def __init__(self, out: Path, protocol: dict[str, Any]) -> None:
        """`protocol` is what decides an individual's number; nothing is written yet.

        Raises:
            ConfigError: the folder holds something else, or individuals measured otherwise.
            DataError: its `search.json` cannot be read.
        """
        self.out = out
        self.model = out / MODEL
        self.protocol = protocol
        self._check()

    def _check(self) -> None:
        path = self.out / PROTOCOL_FILE
        if not path.exists():
            if self.out.is_dir() and any(inner.name != ".lock" for inner in self.out.iterdir()):
                raise ConfigError(f"{self.out} holds other files and no search: choose another --out")
            return
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} cannot be read ({error}): choose another --out") from error
        for key, value in self.protocol.items():
            if before.get(key) != value:
                raise ConfigError(
                    f"{self.out} was searched with another {key} ({before.get(key)}, now {value}): choose another --out"
                )

    @contextlib.contextmanager
    def opened(self) -> Iterator[dict[Candidate, float]]:
        """Work in the folder, alone; gives the numbers that are there already. A line torn by a kill is cut off.

        Raises:
            ConfigError: another process is at work there.
            DataError: a line of the log is no individual.
            StorageError: the folder cannot be written.
        """
        with alone_in(self.out):
            self._check()
            write_json(self.out / PROTOCOL_FILE, self.protocol)
            yield self._read()

    def keep(self, individual: Individual) -> None:
        """Add an individual to the log, on the disk when this returns."""
        finite = math.isfinite(individual.nll)
        row = {
            "round": individual.round,
            "origin": individual.origin,
            "nll": individual.nll if finite else None,
            "perplexity": individual.perplexity if math.isfinite(individual.perplexity) else None,
            "start_tokens": individual.candidate.start_tokens,
            "factors": individual.candidate.factors,
        }
        path = self.out / LOG_FILE
        with storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> dict[Candidate, float]:
        path = self.out / LOG_FILE
        if not path.exists():
            return {}
        with storage_errors(path):
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(path, whole)
        done = {}
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                row = json.loads(line)
                candidate = Candidate(tuple(row["factors"]), row["start_tokens"])
                done[candidate] = math.inf if row["nll"] is None else float(row["nll"])
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path}, line {number}: not an individual of a search ({error}); remove it") from error
        return done
