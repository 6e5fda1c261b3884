from __future__ import annotations

from collections.abc import Callable

import pytest

from longspan.cli import main


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused("eval", ...) runs the command, checks that it ends with exit code 2 and one line, and returns that."""

    def run(*arguments: object, code: int = 2) -> str:
        assert main([str(argument) for argument in arguments]) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("longspan: error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err

    return run


@pytest.fixture
def done(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """done("methods") runs the command, makes sure that it succeeds, and returns its stdout."""

    def run(*arguments: object) -> str:
        capfd.readouterr()
        assert main([str(argument) for argument in arguments]) == 0
        return capfd.readouterr().out

    return run
