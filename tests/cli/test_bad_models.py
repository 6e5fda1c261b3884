"""Models that cannot be used, by way of every command that loads one: exit code 2, one line, and no code is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]
Done = Callable[..., str]
COMMANDS = ("plan", "extend", "doctor", "eval", "generate", "export", "serve", "search")
BY_CONFIG = tuple(name for name in COMMANDS if name != "plan")
"""Those that read weights too."""


@pytest.fixture
def copied(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copied"))


@pytest.fixture
def arguments(book: Path, tmp_path: Path) -> Callable[[str, object], list[object]]:
    """The words of a command on a model, as few as it takes."""

    def words(command: str, model: object) -> list[object]:
        out = ["--out", tmp_path / "out"]
        more: dict[str, list[object]] = {
            "plan": ["--target-length", "1k", "--method", "yarn"],
            "extend": ["--target-length", "1k", "--method", "yarn", *out],
            "eval": ["--lengths", "16", "--text", book, *out],
            "generate": ["--prompt", "x"],
            "export": ["--to", "hf", *out],
            "serve": ["--port", "0"],
            "search": ["--target-length", "1k", "--text", book, *out],
        }
        return [command, model, *more.get(command, []), "--quiet"]

    return words


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize("command", COMMANDS)
def test_code_of_a_model_is_named_and_not_run(
    command: str, copied: Path, arguments: Callable[..., list[object]], refused: Refused
) -> None:
    change_config(copied, auto_map={"AutoConfig": "planted.Config", "AutoModelForCausalLM": "planted.Model"})
    (copied / "planted.py").write_text(f"open({str(copied / 'ran')!r}, 'w').close()\n")
    assert "brings code of its own (planted.py), which would run" in refused(*arguments(command, copied))
    assert not (copied / "ran").exists()
    assert not (copied.parent / "out").exists()


def test_code_of_a_model_runs_if_asked(copied: Path, done: Done) -> None:
    change_config(copied, auto_map={"AutoModelForCausalLM": "planted.Model"})
    code = f"from transformers import LlamaForCausalLM\nopen({str(copied / 'ran')!r}, 'w').close()\n"
    (copied / "planted.py").write_text(code + "class Model(LlamaForCausalLM):\n    pass\n")
    done("generate", copied, "--prompt", "x", "--max-new-tokens", "2", "--trust-remote-code")
    assert (copied / "ran").exists()
    done("doctor", copied, "--trust-remote-code")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hub_name_without_a_network_is_one_line(
    command: str, arguments: Callable[..., list[object]], refused: Refused
) -> None:
    model = "nobody/has-this-model"
    said = "is neither a folder here nor a" if command != "export" else "does not exist"
    assert f"{model} {said}" in refused(*arguments(command, model))


@pytest.mark.parametrize("command", BY_CONFIG)
def test_pickled_weights_are_refused(
    command: str, copied: Path, arguments: Callable[..., list[object]], refused: Refused
) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    said = refused(*arguments(command, copied))
    assert "holds pickled weights, which can run code when read: convert them to safetensors first" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_length_that_is_no_whole_number_is_named(
    command: str, copied: Path, arguments: Callable[..., list[object]], refused: Refused
) -> None:
    change_config(copied, max_position_embeddings=64.0)
    assert "'max_position_embeddings' expected int, got float (value: 64.0)" in refused(*arguments(command, copied))


@pytest.mark.parametrize("command", COMMANDS)
def test_rope_parameters_without_theta_are_named(
    command: str, copied: Path, arguments: Callable[..., list[object]], refused: Refused
) -> None:
    change_config(copied, rope_parameters={"rope_type": "default"})
    assert "rope_parameters has lost rope_theta" in refused(*arguments(command, copied))


@pytest.mark.parametrize("command", ["plan", "extend", "eval", "export", "search"])
def test_a_model_without_rope_is_named(
    command: str, copied: Path, arguments: Callable[..., list[object]], refused: Refused
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=512, n_positions=64)).save_pretrained(copied)
    assert "its config has no rotary position embedding (RoPE)" in refused(*arguments(command, copied))


@pytest.mark.parametrize("command", ["extend", "search"])
def test_a_model_that_is_extended_already_is_named_with_its_method_and_lengths(
    command: str,
    model_folder: Path,
    tmp_path: Path,
    arguments: Callable[..., list[object]],
    done: Done,
    refused: Refused,
) -> None:
    done("extend", model_folder, "--method", "coca+yarn", "--target-length", "256", "--out", tmp_path / "first")
    said = refused(*arguments(command, tmp_path / "first"))
    assert "already extended from 64 to 256 tokens by yarn: start from the plain model, or ask" in said
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_model_that_is_extended_already_is_extended_again_if_asked(
    model_folder: Path, book: Path, tmp_path: Path, done: Done, refused: Refused
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    done("extend", model_folder, "--method", "yarn", "--target-length", "256", "--out", first)
    farther = ["--method", "pi", "--target-length", "1k", "--again"]
    said = done("extend", first, *farther, "--out", second)
    assert said.startswith("pi: 64 -> 1k tokens, factor 16\nextended before to 256 tokens, yarn is replaced;")
    done("doctor", second, "--against", model_folder)
    measured = ["--lengths", "128", "--text", book, "--max-targets", "16", "--out", tmp_path / "run", "--quiet"]
    assert "already extended" in refused("eval", first, *measured, "--extend", "pi")
    done("eval", first, *measured, "--extend", "pi", "--again")
    assert "--again has no effect without --extend" in refused("eval", first, *measured, "--again")
    assert "not extended yet, so 'again' has no effect" in refused(
        "extend", model_folder, *farther, "--out", first, "--overwrite"
    )
