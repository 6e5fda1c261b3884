"""eval, train, compare, report and demo by way of the command line; what they compute is tested in their own rooms."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longspan.records import append_records, read_records
from longspan.scores import read_scores

Done = Callable[..., str]
Refused = Callable[..., str]


@pytest.fixture
def measured(model_folder: Path, book: Path, tmp_path: Path) -> list[object]:
    return ["eval", model_folder, "--text", book, "--out", tmp_path / "run", "--max-targets", "64", "--quiet"]


def test_eval_measures_every_cell_and_prints_a_table(measured: list[object], done: Done, tmp_path: Path) -> None:
    options = ["--tasks", "perplexity,position,passkey", "--lengths", "256,512", "--trials", "1", "--depths", "2"]
    said = done(*measured, *options, "--json", tmp_path / "eval.json")
    records = read_records(tmp_path / "run")
    cells = {(record.task, record.metric, record.length, record.depth) for record in records}
    assert {("perplexity", "perplexity", length, None) for length in (256, 512)} <= cells
    assert {("passkey", "accuracy", length, depth) for length in (256, 512) for depth in (0.0, 1.0, None)} <= cells
    assert {length for task, _, length, _ in cells if task == "position"} == {512}
    scores = read_scores(tmp_path / "run")
    assert sum(score.task == "passkey" for score in scores) == 2 * 2
    assert {score.length for score in scores if score.task == "perplexity"} == {256, 512}
    assert {record.method for record in records} == {"rope"}
    assert {record.train_length for record in records} == {64}
    assert "| 256 | 512 |" in said
    assert len(json.loads((tmp_path / "eval.json").read_text())["records"]) == len(records)


def values(lines: list[str]) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in lines]
    return {(row["metric"], row["length"]): row["value"] for row in rows}


def test_eval_goes_on_where_it_was_stopped(measured: list[object], done: Done, tmp_path: Path) -> None:
    lengths = ["--lengths", "16,32,64"]
    whole = done(*measured, *lengths)
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:20])  # killed while the second cell was written
    assert done(*measured, *lengths) == whole
    again = path.read_text().splitlines(keepends=True)
    assert again[:4] == lines[:4]
    assert values(again) == values(lines)
    assert done(*measured, *lengths) == whole
    assert path.read_text().splitlines(keepends=True) == again


def test_shorter_lengths_added_later_use_the_targets_of_the_first_call(
    measured: list[object], done: Done, refused: Refused, tmp_path: Path
) -> None:
    done(*measured, "--lengths", "64,128")
    done(*measured, "--lengths", "32")
    together = {record.length: record.value for record in read_records(tmp_path / "run") if record.metric == "nll"}
    done(*measured, "--lengths", "32,64,128", "--out", tmp_path / "fresh")
    fresh = {record.length: record.value for record in read_records(tmp_path / "fresh") if record.metric == "nll"}
    assert together == fresh
    line = refused(*measured, "--lengths", "256")
    assert "the longest of --lengths was 128 and matched targets start there, so 256 does not fit in" in line
    assert "--variant all" in line


def test_longer_lengths_can_be_added_where_all_tokens_are_targets(
    measured: list[object], done: Done, tmp_path: Path
) -> None:
    for lengths in ("32", "64,128", "16"):
        done(*measured, "--variant", "all", "--lengths", lengths)
    lengths = {record.length for record in read_records(tmp_path / "run")}
    assert lengths == {16, 32, 64, 128}


def test_a_folder_says_by_which_settings_it_was_measured(measured: list[object], done: Done, tmp_path: Path) -> None:
    passkeys = ["--tasks", "perplexity,passkey", "--trials", "1", "--depths", "2"]
    done(*measured, *passkeys, "--lengths", "256,2k", "--dtype", "bfloat16")
    settings = json.loads((tmp_path / "run" / "eval.json").read_text())
    # a quarter of 256, and of 2048 no more than 512
    assert {"stride at 256": 64, "stride at 2048": 512, "longest": 2048, "max_targets": 64}.items() <= settings.items()
    assert {"attention": "sdpa", "dtype": "bfloat16", "decoding": "auto", "trials": 1}.items() <= settings.items()
    assert None not in settings.values()


def test_what_was_refused_leaves_the_folder_to_other_settings(
    measured: list[object], done: Done, refused: Refused, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short")
    assert "long enough" in refused(*measured, "--lengths", "64", "--text", short)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "eval.json").write_text('{"text": "another"}')  # killed before its first record
    done(*measured, "--lengths", "64")
    assert refused(*measured, "--lengths", "64", "--text", short)
    settings = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert settings["text"] != "another"


def test_bits_per_byte_are_those_of_the_scored_text(
    measured: list[object], done: Done, book: Path, tmp_path: Path
) -> None:
    measured[measured.index("--max-targets") :] = ["--quiet"]
    done(*measured, "--lengths", "64", "--variant", "all")
    found = {record.metric: record for record in read_records(tmp_path / "run")}
    assert list(found) == ["perplexity", "nll", "bits_per_byte"]
    nats = found["nll"].value * found["nll"].n
    assert found["bits_per_byte"].value == pytest.approx(nats / math.log(2) / len(book.read_bytes()))


def test_numbers_of_two_protocols_are_kept_apart(
    measured: list[object], refused: Refused, done: Done, book: Path, model_folder: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(model_folder, tmp_path / "copied"))
    measured[1] = copied
    done(*measured, "--lengths", "16,32")
    assert "stride" in refused(*measured, "--lengths", "16,32", "--stride", "3")
    other = tmp_path / "other.txt"
    other.write_text(book.read_text()[::-1])
    assert "text" in refused(*measured, "--lengths", "16,32", "--text", other)
    assert "dtype" in refused(*measured, "--lengths", "16,32", "--dtype", "bfloat16")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    assert "content" in refused(*measured, "--lengths", "16,32")


def test_eval_can_extend_first(measured: list[object], done: Done, refused: Refused, tmp_path: Path) -> None:
    done(*measured, "--lengths", "32,128")
    done(*measured, "--lengths", "32,128", "--extend", "pi")
    found = {(r.method, r.length): r.value for r in read_records(tmp_path / "run") if r.metric == "nll"}
    assert set(found) == {(method, length) for method in ("rope", "pi") for length in (32, 128)}
    assert found["pi", 128] != found["rope", 128]
    assert "target_length" in refused(*measured, "--lengths", "32,128", "--extend", "pi", "--target-length", "256")


def test_report_makes_one_page(measured: list[object], done: Done, tmp_path: Path) -> None:
    done(*measured, "--lengths", "16,32")
    said = done("report", tmp_path / "run", "--out", tmp_path / "page.html", "--json", tmp_path / "report.json")
    assert said.strip() == str(tmp_path / "page.html")
    assert "<html" in (tmp_path / "page.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["report"] == str(tmp_path / "page.html")


def test_train_hands_the_file_and_the_options_on(
    monkeypatch: pytest.MonkeyPatch, done: Done, book: Path, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def train(config: Any, out: Path, progress: bool) -> Path:
        seen.extend([config, out, progress])
        append_records(out / "records.jsonl", [])
        return out / "checkpoint"

    monkeypatch.setattr("longspan.train.run.train", train)
    path = tmp_path / "run.yaml"
    path.write_text(f"name: x\ntrain_length: 16\ndata: {{text: {book}}}\nsteps: 1\n")
    options = ["--set", "steps=2", "--set", "optimizer.learning_rate=0.5", "--seed", "3", "--device", "cpu"]
    said = done("train", path, *options, "--dtype", "bfloat16", "--out", tmp_path / "out", "--quiet")
    config, out, progress = seen
    assert said.strip() == str(tmp_path / "out" / "checkpoint")
    assert (config.steps, config.optimizer.learning_rate, config.seed) == (2, 0.5, 3)
    assert (config.device, config.dtype, progress, out) == ("cpu", "bfloat16", False, tmp_path / "out")


def test_compare_hands_the_file_and_the_options_on(
    monkeypatch: pytest.MonkeyPatch, done: Done, book: Path, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def compare(config: Any, out: Path, *, jobs: int, progress: bool) -> Path:
        seen.extend([config, jobs, progress])
        append_records(out / "records.jsonl", [])
        (out / "table.md").write_text("the table")
        return out

    monkeypatch.setattr("longspan.study.run.compare", compare)
    path = tmp_path / "study.yaml"
    path.write_text(
        f"name: x\nlengths: [16, 32]\narms: {{rope: {{}}}}\nevaluate: {{text: {book}}}\n"
        f"run: {{train_length: 16, steps: 1, batch_tokens: 32, data: {{text: {book}}}}}\n"
    )
    options = ["--jobs", "3", "--seed", "5", "--device", "cpu", "--dtype", "bfloat16", "--out", tmp_path / "out"]
    assert done("compare", path, *options, "--set", "lengths=[16]").strip() == "the table"
    config, jobs, progress = seen
    assert (config.seeds, config.lengths, jobs, progress) == ([5], [16], 3, True)
    assert (config.run["device"], config.run["dtype"]) == ("cpu", "bfloat16")


def test_demo_runs_the_demo(monkeypatch: pytest.MonkeyPatch, done: Done, tmp_path: Path) -> None:
    seen: list[Any] = []

    def run(out: Path, *, quiet: bool, seed: int, device: str) -> Path:
        append_records(out / "records.jsonl", [])
        seen.extend([out, quiet, seed, device])
        return out / "report.html"

    monkeypatch.setattr("longspan.study.demo.run", run)
    options = ["--quiet", "--seed", "3", "--device", "cpu", "--json", tmp_path / "demo.json"]
    done("demo", "--out", tmp_path / "demo", *options)
    assert seen == [tmp_path / "demo", True, 3, "cpu"]
    assert json.loads((tmp_path / "demo.json").read_text())["records"] == []
