"""Trained runs measured on held-out items: ranks user by user, kept with the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from longspan.errors import ConfigError
from longspan.files import value_hash, write_json
from longspan.systems.discrec.beam import beam_search
from longspan.systems.discrec.interactions import Part
from longspan.systems.discrec.metrics import Ranks, ranks_of
from longspan.systems.discrec.model import DiscRec
from longspan.systems.discrec.prepare import Prepared
from longspan.systems.discrec.rows import Samples
from longspan.systems.discrec.run import read_run, rows_of
from longspan.systems.discrec.trie import Trie


@dataclass(frozen=True, slots=True)
class Protocol:
    """How ranks are measured."""

    part: Part = "test"
    beams: int = 20
    users: int | None = None
    """So many users, drawn by the seed; None: all."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """Ranks of one run."""

    study: str
    arm: str
    seed: int
    baseline: bool
    """Whether it is T5 without a branch (TIGER)."""
    parameters: int
    collisions: float
    """Share of the items whose codes are another item's: each is a hit for the other."""
    ranks: Ranks


def measure(
    folder: Path, protocol: Protocol, *, batch: int = 32, device: torch.device, progress: bool = True
) -> Measured:
    """Ranks of the held-out items by the run in `folder`; what was measured before is read from there.

    Raises:
        CheckpointError: the folder is no run.
        ConfigError: more users are asked for than there are.
    """
    values, data, model = read_run(folder, device)
    places = _drawn(data, protocol)
    asked = {"part": protocol.part, "beams": protocol.beams, "users": value_hash(places)}
    path = folder / f"ranks-{protocol.part}.json"
    ranks = _kept(path, asked)
    if ranks is None:
        ranks = _ranks(model, data, places, protocol.beams, batch, folder.name if progress else None)
        write_json(path, {**asked, "ranks": ranks.tolist()})
    return Measured(
        study=values["study"],
        arm=values["arm_name"],
        seed=values["seed"],
        baseline=values["arm"]["branch"] == "none",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        collisions=data.ids.collisions,
        ranks=ranks,
    )


def _drawn(data: Prepared, protocol: Protocol) -> list[tuple[int, int]]:
    places = data.interactions.held_out(protocol.part)
    if protocol.users is None:
        return places
    if protocol.users > len(places):
        raise ConfigError(f"--users {protocol.users}, and there are {len(places)}: give fewer or leave it out")
    drawn = np.random.default_rng(protocol.seed).choice(len(places), protocol.users, replace=False)
    return [places[place] for place in sorted(drawn.tolist())]


def _kept(path: Path, asked: dict[str, Any]) -> Ranks | None:
    """Ranks that were measured in this way before."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return np.array(values["ranks"], dtype=np.int64) if {**values, **asked} == values else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _ranks(
    model: DiscRec, data: Prepared, places: Sequence[tuple[int, int]], beams: int, batch: int, name: str | None
) -> Ranks:
    trie, groups = Trie(data.ids, model.device), data.ids.groups
    samples = Samples(data.interactions, rows_of(model, data), places)
    found = []
    with tqdm(total=len(places), desc=name, unit="user", disable=name is None) as bar:
        for start in range(0, len(places), batch):
            tokens = samples.batch(range(start, min(start + batch, len(places))))["input_ids"].to(model.device)
            found.append(beam_search(model, tokens, trie, beams)[0].cpu().numpy())
            bar.update(len(tokens))
    targets = np.array([data.interactions.histories[user][place] for user, place in places])
    return ranks_of(np.concatenate(found), groups[targets])
