"""Every recipe runs, at toy scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longspan import models, surgery
from longspan.records import read_records
from longspan.train.config import RunConfig
from longspan.train.run import train

RECIPES = Path(__file__).parents[2] / "recipes"
TOY = ["train_length=32", "batch_tokens=128", "micro_batch_tokens=64", "threads=1", "device=cpu", "log_every=1"]
CHANGES = {
    "convert-coca": ["tokens=null", "steps=3"],
    "extend-pose": ["steps=2", "target_length=256"],
    "sft": ["train_length=64", "epochs=2"],
}


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_the_recipe_trains(name: str, tmp_path: Path, model_folder: Path, book: Path) -> None:
    talk = [{"instruction": "What was calm?", "output": "the sea " * (1 + number % 5)} for number in range(12)]
    (tmp_path / "talks.json").write_text(json.dumps(talk))
    source = f"data.conversations={tmp_path / 'talks.json'}" if name == "sft" else f"data.text={book}"
    overrides = [f"model.from={model_folder}", source, *TOY, *CHANGES.get(name, [])]
    config = RunConfig.from_yaml(RECIPES / f"{name}.yaml", overrides)
    model = models.load(train(config, tmp_path / "run", progress=False))
    assert {record.metric for record in read_records(tmp_path / "run")} == {
        "loss",
        "seconds",
        "seconds per step",
        "bytes",
    }
    assert surgery.target_length(model) == (config.target_length or 64)
