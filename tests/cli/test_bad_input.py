"""Each mistake a user can make ends with exit code 2 and one line that names what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

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
    assert "nowhere.txt does not exist" in refused(
        *measure(model_folder, tmp_path / "run", "--text", tmp_path / "nowhere.txt")
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "text.txt holds no text"),
        (b" \n\t\n", "text.txt holds no text"),
        (b"\xff\xfe\x00caf\xe9", "text.txt is not UTF-8 text (byte 0)"),
        (b"too short", "no document is long enough"),
    ],
)
def test_a_text_that_is_empty_unreadable_or_too_short_is_named(
    model_folder: Path, tmp_path: Path, refused: Refused, content: bytes, said: str
) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    assert said in refused(*measure(model_folder, tmp_path / "run", "--text", tmp_path / "text.txt"))
    assert not (tmp_path / "run").exists()


def test_a_folder_without_texts_is_named(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "texts").mkdir()
    assert "texts has no text files" in refused(*measure(model_folder, tmp_path / "run", "--text", tmp_path / "texts"))


def test_no_text_at_all_is_asked_for(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    assert "--text is missing" in refused(*measure(model_folder, tmp_path / "run"))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("yarm", "unknown method 'yarm'"),
        ("coca(form='loose')", "form='loose'"),
        ("coca(shape=1)", "'coca' has no setting 'shape'"),
        ("yarn+", "'yarn+' does not read as methods"),
        ("import os", "'import os' does not read as methods"),
        ("", "'' does not read as methods"),
    ],
)
def test_a_method_that_cannot_be_read_is_named(
    model_folder: Path, tmp_path: Path, refused: Refused, method: str, said: str
) -> None:
    assert said in refused(*extend(model_folder, tmp_path / "out", method))


def test_a_card_that_is_not_there_is_named(refused: Refused) -> None:
    assert "unknown method 'yarm'" in refused("methods", "yarm")


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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.safetensors", "a safetensors file is truncated or corrupt"),
        ("tokenizer.json", "tokenizer.json is corrupt"),
        ("config.json", "config.json is corrupt"),
    ],
)
def test_a_truncated_file_of_the_model_is_refused(
    copied: Path, tmp_path: Path, refused: Refused, name: str, said: str
) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert said in refused("generate", copied, "--prompt", "x", "--device", "cpu")
    assert said in refused(*extend(copied, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_nowhere_is_named(tmp_path: Path, refused: Refused) -> None:
    assert "nowhere does not exist" in refused("generate", tmp_path / "nowhere", "--prompt", "x")
    assert "no such/model does not exist" in refused("plan", "no such/model", "--target-length", "1k")


def test_a_method_that_is_not_installed_is_named_when_a_saved_model_needs_it(
    tmp_path: Path, model_folder: Path, refused: Refused, done: Callable[..., str]
) -> None:
    done(*extend(model_folder, tmp_path / "out"))
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text().replace('"yarn"', '"yarn_of_the_future"'))
    assert "unknown method 'yarn_of_the_future'" in refused("generate", tmp_path / "out", "--prompt", "x")


def test_an_output_that_is_already_there_is_not_overwritten(
    model_folder: Path, copied: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    assert "precious exists" in refused(*extend(model_folder, tmp_path / "precious"))
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"
    assert "the model itself" in refused(*extend(copied, copied), "--overwrite")


def test_an_output_that_cannot_be_written_is_one_line(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("")
    assert f"cannot write {tmp_path}/file/out" in refused(*extend(model_folder, tmp_path / "file" / "out"))
    page = tmp_path / "file" / "page.md"
    assert f"cannot write {page}" in refused("methods", "--quiet", "--markdown", page)
    passkeys = measure(model_folder, tmp_path / "file", "--tasks", "passkey", "--lengths", "256")
    assert f"cannot write {tmp_path}/file: File exists" in refused(*passkeys)


def test_a_path_that_the_system_refuses_is_one_line(model_folder: Path, refused: Refused) -> None:
    assert "File name too long" in refused(*extend(model_folder, Path("x" * 300)))
    assert "File name too long" in refused("plan", "x" * 300, "--target-length", "1k")


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
    assert "empty does not exist" in refused("report", tmp_path / "empty", "--out", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_prompt_that_is_no_text_is_named(model_folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "prompt").write_bytes(b"\xff\xfe\xfa")
    assert "prompt cannot be read as UTF-8 text" in refused("generate", model_folder, "--prompt", tmp_path / "prompt")


def test_a_length_too_short_for_the_passkey_is_refused_before_anything_is_measured(
    model_folder: Path, book: Path, tmp_path: Path, refused: Refused
) -> None:
    tasks = ["--text", book, "--tasks", "perplexity,passkey"]
    assert "takes at least" in refused(*measure(model_folder, tmp_path / "run", *tasks))
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_numbers_are_refused_whatever_is_measured(
    copied: Path, book: Path, tmp_path: Path, refused: Refused
) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    said = "holds weights that are no finite numbers (model.layers.1.mlp.up_proj.weight)"
    assert said in refused(*measure(copied, tmp_path / "run", "--text", book))
    assert said in refused("eval", copied, "--tasks", "passkey", "--lengths", "256", "--out", tmp_path / "run", "-q")
    assert not (tmp_path / "run").exists()


def test_the_demo_refuses_a_dtype(tmp_path: Path, refused: Refused) -> None:
    assert "--dtype has no effect" in refused("demo", "--dtype", "bfloat16", "--out", tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
