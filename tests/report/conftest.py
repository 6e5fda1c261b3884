"""Records as a study would leave them, made by rule, and the folder it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.records import Record, append_records

ARMS = {"rope": "rope", "alibi": "alibi", "coca-exact": "coca", "coca-slack": "coca(form='slack')"}
EXTENSIONS = ("", "pi", "dynamic_ntk(factor=4.0)", "yarn")
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
TRAIN_LENGTH = 256


def record(**changes: object) -> Record:
    """One record with ordinary values where `changes` does not say otherwise."""
    fields: dict[str, object] = {
        "run": "books",
        "method": "rope",
        "model": "rope",
        "task": "perplexity",
        "metric": "perplexity",
        "value": 1.0,
        "train_length": TRAIN_LENGTH,
        "commit": "0123456789ab",
        "versions": "python 3.11.7, torch 2.13.0",
        "hardware": "one processor",
        "when": "2026-01-02T03:04:05+00:00",
    }
    return Record(**{**fields, **changes})  # type: ignore[arg-type]


def study_records(seeds: tuple[int, ...] = (0, 1)) -> list[Record]:
    """A study of four arms under up to four extensions: perplexity, passkey, positions and training loss."""
    found: list[Record] = []
    for rank, (arm, method) in enumerate(ARMS.items()):
        for added in EXTENSIONS if arm != "alibi" else ("",):
            spelled = "+".join(part for part in (method if method != "rope" or not added else "", added) if part)
            for seed in seeds:
                names = {"model": arm, "method": spelled, "seed": seed}
                found += _by_length(names, _hardness(arm, added), seed)
                if not added:
                    found += _training(names, rank, seed)
    return found


def _hardness(arm: str, added: str) -> float:
    hardness = {"rope": 1.1, "alibi": 0.05, "coca-exact": 0.35, "coca-slack": 0.6}[arm]
    return hardness * {"": 1.0, "pi": 0.6, "dynamic_ntk(factor=4.0)": 0.45, "yarn": 0.3}[added]


def _by_length(names: dict[str, object], hardness: float, seed: int) -> list[Record]:
    found = []
    depths = [step / 10 for step in range(11)]
    for length in LENGTHS:
        beyond = max(0.0, math.log2(length / TRAIN_LENGTH))
        value = (24 - 2 * math.log2(length / 128) / 6) * math.exp(hardness * beyond) * (1 + 0.03 * seed)
        found.append(record(**names, length=length, value=value, low=value * 0.97, high=value * 1.03, n=9000))
        for depth in depths:
            right = max(0.0, min(1.0, 1.25 - hardness * beyond * (1.3 - 0.6 * depth) - 0.05 * seed))
            passkey = {"task": "passkey", "metric": "accuracy", "length": length}
            found.append(record(**names, **passkey, depth=depth, value=round(right, 1), n=10))
        mean = sum(item.value or 0.0 for item in found[-len(depths) :]) / len(depths)
        found.append(record(**names, **passkey, value=mean, low=max(0, mean - 0.07), high=min(1, mean + 0.07), n=110))
    for step in range(24):
        depth = 2 ** (-(23 - step) / 2.2)
        beyond = max(0.0, math.log2(depth * 8192 / TRAIN_LENGTH))
        nll = 3.1 + 2.0 * math.exp(-step / 3) + hardness * beyond + 0.02 * seed
        place = {"task": "position", "metric": "nll", "length": 8192, "depth": depth}
        found.append(record(**names, **place, value=nll, low=nll - 0.05, high=nll + 0.05, n=500))
    return found


def _training(names: dict[str, object], rank: int, seed: int) -> list[Record]:
    return [
        record(
            **names,
            task="train",
            metric="loss",
            depth=step / 200,
            value=3 + 5 * math.exp(-step / 20) + 0.05 * rank + 0.03 * math.sin(step + 5 * seed),
        )
        for step in range(1, 201)
    ]


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """Makes one record; what is not given has an ordinary value."""
    return record


@pytest.fixture(scope="session")
def study() -> list[Record]:
    """Records of four arms, two seeds."""
    return study_records()


@pytest.fixture
def study_folder(tmp_path: Path, study: list[Record]) -> Path:
    """A folder with the records and the settings of a study."""
    folder = tmp_path / "books-256"
    append_records(folder / "records.jsonl", study)
    (folder / "study.yaml").write_text("train_length: 256\nsource: <https://example.org/books>\n")
    return folder
