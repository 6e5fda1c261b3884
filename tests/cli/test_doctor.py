"""longspan doctor, by way of the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.cli import main

Done = Callable[..., str]


def test_an_extended_folder_passes_and_the_table_says_so(model_folder: Path, done: Done, tmp_path: Path) -> None:
    done("extend", model_folder, "--method", "yarn", "--target-length", "256", "--out", tmp_path / "out")
    said = done("doctor", tmp_path / "out", "--against", model_folder, "--json", tmp_path / "doctor.json")
    assert re.search(r"^attention_scores +ok ", said, flags=re.MULTILINE)
    result = json.loads((tmp_path / "doctor.json").read_text())
    assert result["passed"]
    assert result["against"] == str(model_folder)
    assert {"name", "passed", "measured", "threshold", "detail", "advice"} == set(result["checks"][0])


def test_a_failed_check_ends_with_exit_code_1_and_advice(
    model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"]["rope_theta"] = 20000.0
    path.write_text(json.dumps(config))
    arguments = ["doctor", tmp_path / "model", "--against", model_folder, "--json", tmp_path / "doctor.json"]
    assert main([str(argument) for argument in arguments]) == 1
    out, err = capfd.readouterr()
    assert "rope_theta: merge into config.rope_parameters" in out
    assert err == ""
    checks = json.loads((tmp_path / "doctor.json").read_text())["checks"]
    failed = [check["name"] for check in checks if check["passed"] is False]
    assert failed == ["rope_theta", "in_effect"]


def test_mistakes_end_in_one_line(model_folder: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    assert "does not exist" in refused("doctor", tmp_path / "nowhere")
    assert "does not exist" in refused("doctor", model_folder, "--against", tmp_path / "nowhere")
