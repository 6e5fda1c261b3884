"""`longspan eval` on tasks of prompts: listed lightly, kept on request, refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.evaluate import room
from longspan.records import read_records


def test_tasks_are_listed_without_torch() -> None:
    code = "from longspan.cli import main; main(['eval', '--list-tasks']); import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "False"
    listed = [line.split()[0] for line in lines[:-1] if line]
    assert {"passkey", "niah_single_1", "vt", "cwe", "fwe", "qa_2", "perplexity", "context_gain", "ruler"} <= set(
        listed
    )


def test_prompts_and_answers_are_kept_and_a_second_call_measures_nothing(
    done: Callable[..., str], model_folder: Path, tmp_path: Path
) -> None:
    options = ["--lengths", "200", "--trials", "1", "--depths", "2", "--out", tmp_path / "run", "--keep-samples", "-q"]
    printed = done("eval", model_folder, "--tasks", "small", *options)
    assert "| copying" in printed
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert {row["task"] for row in kept} == {"copying", "induction", "passkey"}
    assert len(kept) == 6
    passkey = next(row for row in kept if row["task"] == "passkey")
    assert f"The pass key is {passkey['references'][0]}." in passkey["prompt"]
    assert passkey["answer"] != ""
    records = read_records(tmp_path / "run")
    assert {record.distance for record in records if record.task == "copying" and record.depth == 1.0} == {24}
    done("eval", model_folder, "--tasks", "small", *options)
    assert (tmp_path / "run" / "samples.jsonl").read_text().splitlines() == lines
    assert len(read_records(tmp_path / "run")) == len(records)


def test_context_gain_is_nothing_at_the_shortest_length(
    done: Callable[..., str], model_folder: Path, book: Path, tmp_path: Path
) -> None:
    options = ["--text", book, "--max-targets", "40", "--out", tmp_path / "run", "-q"]
    done("eval", model_folder, "--tasks", "context_gain", "--lengths", "16,64", *options)
    gains = {record.length: record.value for record in read_records(tmp_path / "run") if record.metric == "gain"}
    losses = {record.length: record.value for record in read_records(tmp_path / "run") if record.metric == "nll"}
    assert gains[16] == 0.0
    assert gains[64] == pytest.approx(losses[16] - losses[64])


def test_mistakes_are_one_line_that_says_what_to_do(
    refused: Callable[..., str], model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(tasks: str, lengths: str, *options: object) -> str:
        return refused("eval", model_folder, "--tasks", tasks, "--lengths", lengths, "--out", tmp_path / "o", *options)

    assert "unknown task 'needel'" in asked("needel", "256")
    assert "takes at least" in asked("ruler", "256")
    assert "no chat template" in asked("needle", "256", "--chat")
    assert "--haystack has no effect on copying" in asked("copying", "256", "--haystack", tmp_path)
    assert "at least two lengths" in asked("context_gain", "256", "--text", model_folder / "config.json")
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe\x00\x01")
    assert "holds no text" in asked("needle", "256", "--haystack", empty)
    assert "is not UTF-8" in asked("needle", "256", "--haystack", binary)
    short = tmp_path / "short.txt"
    short.write_text("Not much to hide in.")
    assert "the haystack has" in asked("needle", "256", "--haystack", short)
    monkeypatch.setattr(room, "free_bytes", lambda device: 1 << 30)
    assert "tokens fit" in asked("needle", "16m")
    assert "has no file lambada" in asked("lambada", "256", "--data", tmp_path)
    assert not (tmp_path / "o").exists()
    assert "--lengths is missing" in refused("eval", model_folder)
