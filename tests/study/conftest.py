"""A study small enough for a test: two arms, two layers, a few steps, generated text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from longspan.study.config import StudyConfig
from longspan.study.run import compare
from longspan.train import sizes

TINY = sizes.Size(layers=2, width=32, heads=2, intermediate=64, tied=True)
WORDS = ["the", "sun", "rises", "over", "a", "green", "hill", "and", "river", "water", "runs", "down", "to", "sea"]


def write_text(folder: Path, documents: int, words: int, seed: int) -> Path:
    """A folder of documents made of random words."""
    folder.mkdir()
    source = random.Random(seed)
    for number in range(documents):
        (folder / f"{number}.txt").write_text(" ".join(source.choices(WORDS, k=words)) + "\n")
    return folder


def small_study(folder: Path) -> dict[str, Any]:
    """The tiny study as nested dictionaries; its text is written into `folder`."""
    return {
        "name": "small",
        "run": {
            "model": {"size": "tiny"},
            "train_length": 64,
            "data": {"text": str(write_text(folder / "train", 3, 2000, 0)), "vocab_size": 300},
            "steps": 4,
            "batch_tokens": 256,
            "log_every": 2,
        },
        "arms": {"rope": {}, "coca": {"methods": "coca", "extensions": ["none", "pi"]}},
        "extensions": ["none", "pi", "yarn", "dynamic_ntk(factor=2)"],
        "lengths": [128, 256, 64],
        "evaluate": {
            "text": str(write_text(folder / "held-out", 3, 1000, 1)),
            "perplexity": {"documents": 2, "max_targets": 32},
            "position": {"documents": 1},
            "passkey": None,
        },
    }


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size of its own."""
    monkeypatch.setitem(sizes.SIZES, "tiny", TINY)


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """The tiny study as nested dictionaries."""
    return small_study(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny study, finished. Read only."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sizes.SIZES, "tiny", TINY)
        return compare(StudyConfig.parse(small_study(folder), "study.yaml"), folder / "out", progress=False)


@pytest.fixture
def study(values: dict[str, Any]) -> StudyConfig:
    """The tiny study."""
    return StudyConfig.parse(values, "study.yaml")
