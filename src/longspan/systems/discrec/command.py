"""What the commands do that takes more than one part of the system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longspan.errors import ConfigError
from longspan.files import alone_in, write_text
from longspan.models import torch_device
from longspan.records import Record, append_records
from longspan.systems.discrec.codes import SemanticIds
from longspan.systems.discrec.evaluate import Protocol, measure
from longspan.systems.discrec.formats import read_attributes, read_interactions, read_names
from longspan.systems.discrec.interactions import Interactions
from longspan.systems.discrec.prepare import Prepared
from longspan.systems.discrec.results import result_records, results_table
from longspan.systems.discrec.run import find_runs
from longspan.systems.discrec.tokenizer import TokenizerSettings, train_tokenizer
from longspan.systems.discrec.vectors import attribute_vectors, read_vectors
from longspan.train.settings import with_overrides

VECTOR_WIDTH = 128
"""Numbers of an item vector that is made here."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Files that data is prepared from."""

    interactions: Path
    ids: Path | None = None
    vectors: Path | None = None
    attributes: Path | None = None
    names: Path | None = None

    @property
    def ready_ids(self) -> Path | None:
        """The file of semantic IDs: the one given, or the one that lies beside the interactions of a public set."""
        if self.ids is not None or self.vectors is not None or self.attributes is not None:
            return self.ids
        path = self.interactions
        places = path.glob("*.index.json") if path.is_dir() else [Path(str(path).replace(".inter.", ".index."))]
        return next((place for place in places if place.is_file() and place != path), None)


def prepare_data(
    sources: Sources,
    out: Path,
    *,
    core: int = 1,
    overrides: Sequence[str] = (),
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Read interactions, give every item a semantic ID, write the folder `out`; returns what its `data.json` says.

    Raises:
        ConfigError: sources or settings that do not go together.
        DataError: a file that cannot be used, a user with too few events, an item without codes.
    """
    interactions = _interactions(sources, core)
    if sources.ids is not None and (sources.vectors is not None or sources.attributes is not None):
        raise ConfigError("--ids are ready: --vectors and --attributes have no effect; leave them out")
    if sources.vectors is not None and (sources.attributes is not None or core > 1):
        raise ConfigError("--vectors go with all items as they are: leave --attributes and --core out")
    ready = sources.ready_ids
    if ready is not None:
        if overrides:
            raise ConfigError(f"--set and --seed are for the tokenizer, and {ready} has ready IDs: leave them out")
        ids = SemanticIds.read(ready, interactions.items)
        return Prepared(interactions, ids).write(out, {"ids": str(ready)})
    settings = TokenizerSettings.parse(with_overrides({}, overrides), "--set")
    if sources.vectors is None:
        vectors = attribute_vectors(interactions, VECTOR_WIDTH)
    else:
        vectors = read_vectors(sources.vectors, len(interactions.items))
    ids, before = train_tokenizer(vectors, settings, device=torch_device(device), progress=progress)
    details = {"tokenizer": settings.to_json(), "collisions_before": before}
    return Prepared(interactions, ids).write(out, details)


def _interactions(sources: Sources, core: int) -> Interactions:
    found = read_interactions(sources.interactions)
    if sources.attributes is not None:
        found = replace(found, attributes=read_attributes(sources.attributes))
    if sources.names is not None:
        found = replace(found, names=read_names(sources.names))
    return (found.filtered(core) if core > 1 else found).check()


def evaluate_runs(
    folder: Path, protocol: Protocol, *, batch: int = 32, device: str = "auto", progress: bool = True
) -> tuple[str, list[Record]]:
    """Measure every run in `folder`; its table and records, which `folder` gets as files, too.

    Raises:
        CheckpointError: there is no run, or one is damaged.
        ConfigError: the runs foretell different users, or another process is at work in `folder`.
    """
    where = torch_device(device)
    with alone_in(folder):
        runs = [measure(run, protocol, batch=batch, device=where, progress=progress) for run in find_runs(folder)]
        if len({(run.study, len(run.ranks)) for run in runs}) > 1:
            raise ConfigError(f"{folder} holds runs of several studies: evaluate each by itself")
        records = result_records(runs, protocol)
        table = results_table(runs, records)
        path = folder / f"{protocol.part}.jsonl"
        path.unlink(missing_ok=True)
        append_records(path, records)
        write_text(folder / f"{protocol.part}.md", table)
    return table, records
