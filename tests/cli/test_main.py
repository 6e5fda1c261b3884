from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import typer

from longspan.cli import app, main, methods

Refused = Callable[..., str]
COMMANDS = ["methods", "plan", "extend", "train", "eval", "compare", "report", "generate", "demo"]


def test_there_are_these_commands_and_each_takes_the_common_options() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert list(commands) == COMMANDS
    for command in commands.values():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--seed", "--device", "--dtype", "--quiet"} <= options
        assert command.help


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["extend", "--help"], ["--version"]])
def test_asking_for_help_or_version_succeeds(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    assert "longspan" in out
    assert err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["extent"],
        ["--verbose"],
        ["extend"],
        ["extend", "m", "--method", "yarn", "--out", "x"],
        ["methods", "--device", "tpu"],
        ["methods", "--dtype", "int8"],
        ["methods", "--seed", "-1"],
        ["methods", "a", "b"],
        ["generate", "m", "--prompt", "x", "--max-new-tokens", "0"],
    ],
)
def test_a_mistyped_command_is_one_line_and_exit_code_2(arguments: list[str], refused: Refused) -> None:
    assert "--help" in refused(*arguments)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("longspan.registry.all_methods", fail)


def test_interrupting_ends_with_130_and_says_that_state_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert main(["methods"]) == 130
    assert "kept" in capfd.readouterr().err


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "somewhere"))
    assert "somewhere: No space left" in refused("methods")


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    import torch

    failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"))
    assert "shorter length" in refused("methods")


def test_a_fault_of_our_own_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["methods"])


def test_every_command_stands_in_a_file_of_its_name() -> None:
    assert methods.__name__ == "longspan.cli.methods"
