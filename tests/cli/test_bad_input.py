"""Each mistake a user can make ends with exit code 2 and one line that names what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]


@pytest.fixture
def copied(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "copied"))


def measure(model: object, out: Path, *more: object) -> list[object]:
    return ["eval", model, "--lengths", "16,32", "--out", out, "--quiet", *more]


def extend(model: object, out: Path, method: str = "yarn", target: str = "256") -> list[object]:
    return ["extend", model, "--method", method, "--target-length", target, "--out", out]


def test_a_missing_text_is_named(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    assert "nowhere.txt" in refused(*measure(model_folder, tmp_path / "run", "--text", tmp_path / "nowhere.txt"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xff\xfe\x00caf\xe9", b"too short"])
def test_a_text_that_is_empty_unreadable_or_too_short_is_named(
    model_folder: Path, tmp_path: Path, refused: Refused, content: bytes
) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    line = refused(*measure(model_folder, tmp_path / "run", "--text", tmp_path / "text.txt"))
    assert "text.txt" in line or "the longest has" in line


def test_a_folder_without_texts_is_named(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "texts").mkdir()
    assert "texts" in refused(*measure(model_folder, tmp_path / "run", "--text", tmp_path / "texts"))


def test_no_text_at_all_is_asked_for(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    assert "--text" in refused(*measure(model_folder, tmp_path / "run"))


@pytest.mark.parametrize("method", ["yarm", "coca(form='loose')", "coca(shape=1)", "yarn+", "import os", ""])
def test_a_method_that_cannot_be_read_is_named(
    model_folder: Path, tmp_path: Path, refused: Refused, method: str
) -> None:
    line = refused(*extend(model_folder, tmp_path / "out", method))
    assert any(word in line for word in ("yarm", "coca", "methods"))
    assert "yarm" in refused("methods", "yarm")


def test_two_methods_on_one_slot_are_both_named(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    line = refused(*extend(model_folder, tmp_path / "out", "pi+yarn"))
    assert "Pi" in line
    assert "Yarn" in line
    assert "frequency" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", ["32q", "", "0", "-5", "1.5k", "k"])
def test_a_length_that_cannot_be_read_is_shown(
    model_folder: Path, tmp_path: Path, refused: Refused, length: str
) -> None:
    assert f"'{length}'" in refused(*extend(model_folder, tmp_path / "out", target=length))
    assert f"'{length}'" in refused("plan", model_folder, "--target-length", length)
    assert f"'{length}'" in refused("eval", model_folder, "--lengths", length, "--tasks", "passkey", "--out", tmp_path)


def test_a_target_shorter_than_the_original_is_refused(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    for line in (
        refused(*extend(model_folder, tmp_path / "out", target="32")),
        refused("plan", model_folder, "--target-length", "32"),
    ):
        assert "32" in line
        assert "64" in line


def test_an_unknown_family_is_named(tmp_path: Path, refused: Refused) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    assert "gpt2" in refused(*extend(tmp_path / "gpt2", tmp_path / "out"))
    assert "gpt2" in refused("plan", tmp_path / "gpt2", "--target-length", "64", "--method", "yarn")
    assert "gpt2" in refused("plan", tmp_path / "gpt2", "--target-length", "64")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_truncated_file_of_the_model_is_refused(copied: Path, tmp_path: Path, refused: Refused, name: str) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "copied" in refused("generate", copied, "--prompt", "x", "--device", "cpu")
    assert "copied" in refused(*extend(copied, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_nowhere_is_named(tmp_path: Path, refused: Refused) -> None:
    assert "nowhere" in refused("generate", tmp_path / "nowhere", "--prompt", "x")
    assert "no such/model" in refused("plan", "no such/model", "--target-length", "1k")


def test_a_method_that_is_not_installed_is_named_when_a_saved_model_needs_it(
    tmp_path: Path, model_folder: Path, refused: Refused, done: Callable[..., str]
) -> None:
    done(*extend(model_folder, tmp_path / "out"))
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text().replace('"yarn"', '"yarn_of_the_future"'))
    assert "yarn_of_the_future" in refused("generate", tmp_path / "out", "--prompt", "x")


def test_an_output_that_is_already_there_is_not_overwritten(
    model_folder: Path, copied: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    assert "precious" in refused(*extend(model_folder, tmp_path / "precious"))
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"
    assert "the model itself" in refused(*extend(copied, copied), "--overwrite")


def test_an_output_that_cannot_be_written_is_one_line(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in refused(*extend(model_folder, tmp_path / "file" / "out"))
    assert "file" in refused("methods", "--quiet", "--markdown", tmp_path / "file" / "page.md")


RUN = "train_length: 16\ndata: {text: x}\nsteps: 1\n"
STUDY = (
    "name: x\nlengths: [16]\narms: {rope: {}}\nevaluate: {text: x}\n"
    "run: {train_length: 16, steps: 1, data: {text: x}}\n"
)


@pytest.mark.parametrize(
    ("command", "content", "said"),
    [
        ("train", "name: x\nsead: 1\n" + RUN, "'seed'"),
        ("train", "name: x\noptimizer: {learning_rat: 1}\n" + RUN, "learning_rate"),
        ("train", "name: x\nmodel: {family: gpt5}\n" + RUN, "gpt_neox"),
        ("train", "name: x\nmodel: {size: 7m}\n" + RUN, "7m"),
        ("train", "name: x\nmethods: pi+yarm\n" + RUN, "yarm"),
        ("train", RUN, "'name'"),
        ("compare", STUDY + "sedes: [0]\n", "seeds"),
        ("compare", STUDY + "extensions: [none, yarm]\n", "yarm"),
        ("compare", STUDY + "extensions: [pi+ntk]\n", "slot"),
        *(
            (command, content, said)
            for command in ("train", "compare")
            for content, said in (
                ("name: [unclosed\n", "YAML"),
                ("- a\n- b\n", "settings"),
                ("", "'name'"),
                (None, "settings.yaml"),
            )
        ),
    ],
)
def test_a_yaml_file_that_cannot_be_used_is_named(
    tmp_path: Path, refused: Refused, command: str, content: str | None, said: str
) -> None:
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_text(content)
    line = refused(command, path, "--out", tmp_path / "out")
    assert said in line
    assert "settings.yaml" in line
    assert not (tmp_path / "out").exists()


def test_a_setting_on_the_command_line_is_read_as_strictly(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: x\n" + RUN)
    assert "sead" in refused("train", path, "--set", "sead=1")
    assert "key=value" in refused("train", path, "--set", "seed")
    assert "float16" in refused("train", path, "--dtype", "float16")
    assert "32q" in refused("train", path, "--set", "train_length=32q")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tasks", "perplexty"], "perplexty"),
        (["--tasks", "passkey", "--stride", "8"], "--stride"),
        (["--tasks", "passkey", "--text", "x"], "--text"),
        (["--tasks", "passkey", "--target-length", "128"], "--extend"),
        (["--tasks", "passkey", "--variant", "all"], "--variant"),
        (["--tasks", "position", "--text", "x", "--trials", "3"], "--trials"),
    ],
)
def test_an_option_without_effect_is_refused(
    model_folder: Path, tmp_path: Path, refused: Refused, options: list[str], said: str
) -> None:
    assert said in refused(*measure(model_folder, tmp_path / "run", *options))


def test_a_run_folder_without_records_is_named(tmp_path: Path, refused: Refused) -> None:
    assert "empty" in refused("report", tmp_path / "empty", "--out", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_prompt_that_is_no_text_is_named(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "prompt").write_bytes(b"\xff\xfe\xfa")
    assert "prompt" in refused("generate", model_folder, "--prompt", tmp_path / "prompt")
