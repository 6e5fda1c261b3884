"""The folder that training, evaluation and recommendation read: interactions, names and semantic IDs.

`interactions.json` and `index.json` are in the form of the public sets; items are numbered from 0. `items.json` says
what each was called, `data.json` counts and tells how the IDs were made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan.errors import ConfigError, DataError
from longspan.files import file_hash, replacing_folder, write_json
from longspan.systems.discrec.codes import SemanticIds, read_object
from longspan.systems.discrec.interactions import Interactions

_EVENTS, _ITEMS, _CODES, _SUMMARY = "interactions.json", "items.json", "index.json", "data.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Interactions that can be split, and the codes of their items."""

    interactions: Interactions
    ids: SemanticIds
    fingerprint: str = ""
    """Changes with interactions and codes."""

    def write(self, folder: Path, details: dict[str, Any]) -> dict[str, Any]:
        """Write the folder, whole or not at all; returns what `data.json` says, `details` among it.

        Raises:
            ConfigError: there is something else in that place.
            StorageError: the disk is full or the place cannot be written.
        """
        if folder.exists() and not (folder / _SUMMARY).is_file():
            raise ConfigError(f"{folder} is there and holds no prepared data: choose another --out")
        data, ids = self.interactions, self.ids
        summary = {
            "users": len(data.users),
            "items": len(data.items),
            "events": data.events,
            "training_samples": len(data.training_samples()),
            "levels": ids.levels,
            "codebook_size": ids.codebook_size,
            "distinct_ids": len(set(ids.groups.tolist())),
            "collisions": ids.collisions,
            **details,
        }
        with replacing_folder(folder) as part:
            rows = zip(data.users, data.histories, strict=True)
            (part / _EVENTS).write_text(json.dumps({user: row.tolist() for user, row in rows}), encoding="utf-8")
            (part / _CODES).write_text(json.dumps(ids.save()), encoding="utf-8")
            write_json(part / _ITEMS, [{"id": item, "name": data.names.get(item)} for item in data.items])
            write_json(part / _SUMMARY, summary)
        return summary

    @classmethod
    def read(cls, folder: Path) -> Prepared:
        """The folder that `write` made.

        Raises:
            DataError: it is none, or its files do not fit together.
        """
        if not (folder / _SUMMARY).is_file():
            raise DataError(f"{folder} holds no prepared data: make it by `longspan discrec prepare`")
        try:
            named = json.loads((folder / _ITEMS).read_text(encoding="utf-8"))
            items = tuple(str(row["id"]) for row in named)
            names = {str(row["id"]): str(row["name"]) for row in named if row["name"] is not None}
            codebook_size = int(read_object(folder / _SUMMARY)["codebook_size"])
            histories = {user: [items[i] for i in row] for user, row in read_object(folder / _EVENTS).items()}
        except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"{folder} is damaged ({type(error).__name__}: {error}): prepare it anew") from error
        ids = SemanticIds.read(folder / _CODES, [str(place) for place in range(len(items))], codebook_size)
        interactions = Interactions.number(histories, items, names).check()
        return cls(interactions, ids, file_hash(folder / _EVENTS)[:12] + file_hash(folder / _CODES)[:12])
