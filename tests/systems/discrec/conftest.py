from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longspan.systems.discrec.codes import SemanticIds
from longspan.systems.discrec.interactions import Interactions
from longspan.systems.discrec.model import DiscRec, DiscRecConfig
from longspan.systems.discrec.prepare import Prepared

TINY = {
    "vocab_size": 2 + 4 * 8,
    "codebook_size": 8,
    "history": 5,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "branch_width": 32,
    "dropout_rate": 0.0,
}


@pytest.fixture
def make_model() -> Callable[..., DiscRec]:
    """make_model(branch="none") is a random model of 4 levels of 8 codes that reads 5 items."""

    def make(**settings: Any) -> DiscRec:
        torch.manual_seed(0)
        return DiscRec(DiscRecConfig(**{**TINY, **settings})).eval()

    return make


@pytest.fixture
def prepared() -> Prepared:
    """40 items, two of which share their codes; 30 users of 5 to 12 events that walk through the items in order."""
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(8, size=(60, 4)), axis=0)[:39]
    ids = SemanticIds(rng.permutation(np.concatenate([codes, codes[:1]])), 8)
    histories = {}
    for user in range(30):
        start, length = rng.integers(40), rng.integers(5, 13)
        histories[f"u{user}"] = [f"i{(start + step) % 40}" for step in range(length)]
    items = [f"i{item}" for item in range(40)]
    names = {item: f"Item number {item[1:]}" for item in items[:20]}
    return Prepared(Interactions.number(histories, items, names), ids)


@pytest.fixture
def prepared_folder(prepared: Prepared, tmp_path: Path) -> Path:
    """The same, as `longspan discrec prepare` leaves it."""
    prepared.write(tmp_path / "data", {})
    return tmp_path / "data"


@pytest.fixture
def study(prepared_folder: Path, tmp_path: Path) -> Path:
    """A study file of two tiny arms on that data."""
    path = tmp_path / "study.yaml"
    path.write_text(
        f"name: tiny\ndata: {prepared_folder}\narms: {{tiger: {{branch: none}}, discrec: }}\nseeds: [1]\nhistory: 5\n"
        "size: {layers: 1, width: 16, heads: 2, head_width: 8, feed_forward: 32}\nbatch: 32\nepochs: 4\n"
    )
    return path
