"""`longspan search` on a tiny model: from text to a saved model, stopped and taken up, refused in one line."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from longspan.equation import Window
from longspan.search import Individual, SearchFolder, Space
from longspan.surgery import current_methods, target_length

Done = Callable[..., str]
Refused = Callable[..., str]


@pytest.fixture
def command(model_folder: Path, book: Path, tmp_path: Path) -> list[object]:
    settings = ["--population", "4", "--rounds", "2", "--documents", "2", "--quiet"]
    return ["search", model_folder, "--target-length", "128", "--text", book, "--out", tmp_path / "out", *settings]


def test_it_ends_with_a_log_and_a_model_that_loads(command: list[object], done: Done, tmp_path: Path) -> None:
    said = done(*command, "--json", tmp_path / "search.json")
    rows = [json.loads(line) for line in (tmp_path / "out" / "search.jsonl").read_text().splitlines()]
    assert [row["origin"] for row in rows[:3]] == ["pi", "ntk", "yarn"]
    best = min(rows, key=lambda row: row["nll"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    (method,) = current_methods(model)
    assert method.long_factor == tuple(best["factors"])
    assert target_length(model) == 128
    assert (tmp_path / "out" / "model" / "tokenizer.json").exists()
    result = json.loads((tmp_path / "search.json").read_text())
    assert result["perplexity"]["found"] == pytest.approx(best["perplexity"])
    assert result["perplexity"]["found"] <= min(result["perplexity"].values())
    assert (result["individuals"], result["forward_passes"]) == (len(rows), 2 * len(rows))
    assert said.startswith("pi     perplexity ")
    assert "inv_freq <- LongRope" in said


def test_the_model_found_can_be_searched_no_further_but_measured(
    command: list[object], done: Done, refused: Refused, book: Path, tmp_path: Path
) -> None:
    done(*command)
    command[1], command[command.index("--out") + 1] = tmp_path / "out" / "model", tmp_path / "again"
    assert "already extended from 64 to 128 tokens by long_rope" in refused(*command)
    assert not (tmp_path / "again").exists()
    measured = ["eval", tmp_path / "out" / "model", "--lengths", "64,128", "--text", book, "--out", tmp_path / "run"]
    assert "long_rope" in done(*measured, "--max-targets", "16", "--quiet")


def test_a_torn_log_is_taken_up_to_the_same_model(command: list[object], done: Done, tmp_path: Path) -> None:
    whole = done(*command)
    out = tmp_path / "out"
    log = (out / "search.jsonl").read_bytes()
    config = (out / "model" / "config.json").read_bytes()
    shutil.rmtree(out / "model")
    (out / "search.jsonl").write_bytes(log[: len(log) // 2])
    assert done(*command) == whole
    assert (out / "search.jsonl").read_bytes() == log
    assert (out / "model" / "config.json").read_bytes() == config
    assert done(*command) == whole  # nothing is left to measure
    assert (out / "search.jsonl").read_bytes() == log


def test_more_rounds_go_on_from_those_there_are(command: list[object], done: Done, tmp_path: Path) -> None:
    done(*command)
    log = (tmp_path / "out" / "search.jsonl").read_text()
    command[command.index("--rounds") + 1] = "3"
    done(*command)
    assert (tmp_path / "out" / "search.jsonl").read_text().startswith(log)


def test_a_budget_and_start_tokens_take_effect(command: list[object], done: Done, tmp_path: Path) -> None:
    done(*command, "--population", "12", "--budget", "21", "--start-tokens", "--seed", "1")
    rows = [json.loads(line) for line in (tmp_path / "out" / "search.jsonl").read_text().splitlines()]
    assert len(rows) == 10
    assert any(row["start_tokens"] for row in rows)


def test_ctrl_c_keeps_what_was_measured(
    command: list[object], done: Done, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, log = SearchFolder.keep, tmp_path / "out" / "search.jsonl"

    def keep_and_interrupt(self: SearchFolder, individual: Individual) -> None:
        keep(self, individual)
        if log.read_text().count("\n") == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(SearchFolder, "keep", keep_and_interrupt)
        assert "the same command goes on from there" in refused(*command, code=130)
    kept = log.read_text()
    assert kept.count("\n") == 3
    done(*command)
    assert log.read_text().startswith(kept)
    assert (tmp_path / "out" / "model").is_dir()


def test_mistakes_end_in_one_line_and_leave_nothing(
    command: list[object], refused: Refused, model_folder: Path, tmp_path: Path
) -> None:
    def changed(option: str, value: object) -> list[object]:
        place = command.index(option) + 1
        return [*command[:place], value, *command[place + 1 :]]

    (tmp_path / "short.txt").write_text("too short")
    for arguments, said in (
        (changed("--target-length", "64"), "there is nothing to search at the original length, 64"),
        (changed("--target-length", "32"), "shorter than original_length 64"),
        (changed("--target-length", "32q"), "'32q' is not a length"),
        (changed("--text", tmp_path / "nowhere.txt"), "nowhere.txt does not exist"),
        (changed("--text", tmp_path / "short.txt"), "no document is long enough"),
        (changed("--documents", "5000"), "not 5000: give more text"),
        ([*command, "--budget", "5"], "a budget of 5 forward passes does not reach the 3 starts on 2 documents"),
        (["search", tmp_path / "nowhere", *command[2:]], "nowhere does not exist"),
        (changed("--population", "3"), "--population"),
        (changed("--out", model_folder), "holds other files and no search"),
    ):
        assert said in refused(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short.txt"]


def test_another_text_does_not_join_the_log(
    command: list[object], done: Done, refused: Refused, book: Path, tmp_path: Path
) -> None:
    done(*command)
    (tmp_path / "other.txt").write_text(book.read_text()[500:])
    command[command.index("--text") + 1] = tmp_path / "other.txt"
    assert "searched with another text" in refused(*command)


def test_a_second_process_in_the_folder_is_refused(command: list[object], refused: Refused, tmp_path: Path) -> None:
    with SearchFolder(tmp_path / "out", {}).opened():
        (tmp_path / "out" / "search.json").unlink()
        assert "another process is at work" in refused(*command)


def test_the_log_lies_within_the_space(command: list[object], done: Done, tmp_path: Path) -> None:
    done(*command)
    space = Space(Window(rotary_dim=8, original_length=64, target_length=128))
    for line in (tmp_path / "out" / "search.jsonl").read_text().splitlines():
        factors = json.loads(line)["factors"]
        assert factors == sorted(factors)
        assert factors[0] >= 1
        assert factors[-1] <= space.highest
