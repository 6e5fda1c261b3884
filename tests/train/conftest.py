"""A tiny run: two layers of width 32, a text of random words, a second or less of training."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.train import sizes
from longspan.train.config import RunConfig

TINY = sizes.Size(layers=2, width=32, heads=2, intermediate=64, tied=True)


def make_text(path: Path) -> Path:
    """A text of about 12,000 tokens in which some words are commoner than others."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 6))) for _ in range(60)]
    path.write_text(" ".join(source.choices(words, weights=range(1, 61), k=6000)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `text.txt`; runs keep their tokenizer and tokens in `cache` there."""
    folder = tmp_path_factory.mktemp("data")
    make_text(folder / "text.txt")
    return folder


@pytest.fixture
def run_config(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """run_config(steps=4, optimizer={...}) is a valid tiny run with those settings changed."""
    monkeypatch.setitem(sizes.SIZES, "tiny", TINY)
    data = {
        "text": str(data_folder / "text.txt"),
        "vocab_size": 300,
        "mixture": {"text": 0.5, "repeat": 0.5, "longest_period": 8},
        "cache": str(data_folder / "cache"),
    }
    base = {
        "name": "tiny",
        "model": {"size": "tiny"},
        "train_length": 16,
        "data": data,
        "steps": 6,
        "batch_tokens": 64,
        "save_every": 2,
        "log_every": 2,
        "device": "cpu",
        "threads": 1,
    }

    def make(**changes: object) -> RunConfig:
        return RunConfig.parse({**base, **changes}, "test")

    return make
