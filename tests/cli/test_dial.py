"""`longspan train --target-length`: a model extended without a settings file, or with one that says a part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from longspan.cli import main

Refused = Callable[..., str]

TOY = ["steps=2", "batch_tokens=128", "micro_batch_tokens=64", "threads=1", "device=cpu"]
SETS = [part for setting in TOY for part in ("--set", setting)]


def test_one_length_trains_a_model_and_says_what_it_derived(
    model_folder: Path, book: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--target-length", "512", "--model", model_folder, "--text", book, "--out", tmp_path / "run"]
    arguments += [*SETS, "--json", tmp_path / "said.json"]
    assert main([str(argument) for argument in arguments]) == 0
    out, err = capfd.readouterr()
    assert out.strip() == str(tmp_path / "run" / "checkpoint")
    assert "target_length: 512  (factor 8 over 64)" in err
    assert "test at: 64,128,256,448,512" in err
    resolved = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert (resolved["methods"], resolved["train_length"], resolved["target_length"]) == ("yarn+pose", 64, 512)
    assert (resolved["name"], resolved["steps"], resolved["batch_tokens"]) == ("run", 2, 128)
    said = json.loads((tmp_path / "said.json").read_text())["dial"]
    assert said["test_lengths"] == [64, 128, 256, 448, 512]
    assert "methods" in {choice["key"] for choice in said["choices"]}
    assert main([str(argument) for argument in [*arguments, "--quiet"]]) == 0  # the same again is the same run


def test_settings_of_the_file_win(model_folder: Path, book: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"name: a\nmethods: pi+pose\ndata: {{text: {book}}}\ntarget_length: 128\n")
    arguments = ["train", tmp_path / "run.yaml", "--target-length", "256", "--model", model_folder, *SETS]
    assert main([str(argument) for argument in [*arguments, "--out", tmp_path / "out", "--quiet"]]) == 0
    resolved = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert (resolved["name"], resolved["methods"], resolved["target_length"]) == ("a", "pi+pose", 256)


def test_what_is_missing_is_said(model_folder: Path, book: Path, refused: Refused) -> None:
    assert "give a RUN.yaml, or --target-length with --model and --text" in refused("train")
    assert "name one with --model" in refused("train", "--target-length", "1k", "--text", book)
    assert "set one of 'text' and 'conversations'" in refused("train", "--target-length", "1k", "--model", model_folder)
    line = refused("train", "--target-length", "64", "--model", model_folder, "--text", book)
    assert "is not longer than the model's window of 64" in line
