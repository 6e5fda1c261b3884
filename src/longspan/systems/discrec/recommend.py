"""What one user would take next, as items with their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from longspan.errors import ConfigError
from longspan.systems.discrec.beam import beam_search
from longspan.systems.discrec.model import DiscRec
from longspan.systems.discrec.prepare import Prepared
from longspan.systems.discrec.run import read_run, rows_of
from longspan.systems.discrec.trie import Trie

BEAMS = 20
"""Beams at least, however few items are asked for."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item."""

    item: str
    name: str | None
    score: float
    """Log-probability of its codes; items that share all codes have the same."""
    seen: bool
    """Whether the user has taken it before."""


def recommend(
    folder: Path,
    *,
    user: str | None = None,
    items: Sequence[str] = (),
    top: int = 10,
    unseen: bool = False,
    device: torch.device,
) -> list[Recommendation]:
    """The `top` items to follow the history of `user`, or the `items` given, oldest first.

    Raises:
        ConfigError: neither or both are given.
        DataError: the user or an item is unknown.
        CheckpointError: the folder is no run.
    """
    if (user is None) == (not items):
        raise ConfigError("give a user of the data or the items of a history, and not both")
    _, data, model = read_run(folder, device)
    interactions = data.interactions
    history = (
        np.array([interactions.item(item) for item in items])
        if user is None
        else interactions.histories[interactions.user(user)]
    )
    return next_items(model, data, history, top=top, unseen=unseen)


def next_items(
    model: DiscRec, data: Prepared, history: Int64[np.ndarray, " n"], *, top: int = 10, unseen: bool = False
) -> list[Recommendation]:
    """The items with the highest scores after `history`, best first; fewer where the catalogue has no more."""
    trie, taken = Trie(data.ids, model.device), set(history.tolist())
    tokens = torch.from_numpy(rows_of(model, data).encoder(history)).to(model.device)
    beams = max(BEAMS, top + len(taken) * unseen)
    groups, scores = beam_search(model, tokens[None], trie, beams)
    found = []
    for group, score in zip(groups[0].tolist(), scores[0].tolist(), strict=True):
        for number in trie.items[group].tolist() if group >= 0 else ():
            item = data.interactions.items[number]
            if not (unseen and number in taken):
                found.append(Recommendation(item, data.interactions.names.get(item), score, number in taken))
    return found[:top]
