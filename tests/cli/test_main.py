from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from longspan.cli import app, main, methods
from longspan.records import read_records

Refused = Callable[..., str]
COMMANDS = ["methods", "plan", "search", "extend", "doctor", "train", "eval", "compare", "report", "generate", "export"]
COMMANDS += ["serve", "bench", "demo", "cpt", "discrec", "xlpe"]


def test_there_are_these_commands_and_each_takes_the_common_options() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert list(commands) == COMMANDS
    alone = [inner for command in commands.values() for inner in getattr(command, "commands", {"": command}).values()]
    for command in alone:
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
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "kept" in err


def test_what_an_interrupted_command_says_is_its_one_line(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    failing(monkeypatch, KeyboardInterrupt("interrupted at step 3 of 9"))
    assert refused("methods", code=130) == "longspan: error: interrupted at step 3 of 9\n"


def test_ctrl_c_inside_an_import_is_acted_on_when_the_imports_are_done(
    monkeypatch: pytest.MonkeyPatch, refused: Refused, model_folder: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    reached: list[str] = []

    def importing(*_: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)  # is not to break what runs here
        reached.append("the end of the imports")
        return 0

    monkeypatch.setattr("torch.manual_seed", importing)  # the first that `prepare` does
    assert "interrupted" in refused("generate", model_folder, "--prompt", "x", code=130)
    assert reached == ["the end of the imports"]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_a_library_swallows_ends_the_command_all_the_same(
    monkeypatch: pytest.MonkeyPatch, refused: Refused, model_folder: Path, tmp_path: Path
) -> None:
    def swallow(*_: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)  # long before that, the exception is here

    monkeypatch.setattr("longspan.evaluate.check_finite", swallow)
    options = ["--tasks", "passkey", "--lengths", "256", "--depths", "3", "--trials", "1", "--quiet"]
    assert "interrupted" in refused("eval", model_folder, *options, "--out", tmp_path / "run", code=130)
    assert len(read_records(tmp_path / "run")) == 2  # of one cell


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "longspan", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells by /proc how far a process is")
@pytest.mark.parametrize("moment", ["libtorch", "records"])
def test_ctrl_c_ends_a_real_process_with_130_and_one_line(model_folder: Path, tmp_path: Path, moment: str) -> None:
    records = tmp_path / "run" / "records.jsonl"
    options = ["--tasks", "passkey", "--lengths", "256,512,1k", "--trials", "200", "--quiet", "--out", tmp_path / "run"]
    process = start("eval", model_folder, *options)

    def reached() -> bool:
        return records.exists() if moment == "records" else "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()

    while not reached():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.startswith("longspan: error: interrupted")
    assert err.count("\n") == 1
    assert records.exists() == (moment == "records")


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "somewhere"))
    assert "somewhere: No space left" in refused("methods")


@pytest.mark.parametrize(
    "number", [errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EFBIG, errno.ENAMETOOLONG, errno.EACCES]
)
def test_what_the_system_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch, refused: Refused, number: int) -> None:
    failing(monkeypatch, OSError(number, os.strerror(number), "somewhere"))
    assert f"somewhere: {os.strerror(number)}; " in refused("methods")


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
