"""The command line: one file a command, each of them thin. Heavy imports stand inside the commands."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any, cast

import typer

from longspan.cli import (
    bench,
    compare,
    cpt,
    demo,
    discrec,
    doctor,
    eval,
    export,
    extend,
    generate,
    methods,
    plan,
    report,
    search,
    serve,
    train,
    xlpe,
)
from longspan.cli.interrupts import interrupts
from longspan.cli.options import COMMAND, Interrupted
from longspan.errors import LongspanError

_INTERRUPTED = 130

_ADVICE = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free some space or choose another place",
    (errno.EACCES, errno.EPERM, errno.EROFS): "check its permissions or choose another place",
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG): "check the path",
}
"""What a user can do about errors of the operating system."""

_UsageError = cast(type[Exception], typer.BadParameter.__bases__[0])
"""click's own, or that of the copy inside typer: no public name serves both."""

app = typer.Typer(
    name="longspan",
    help="Lengthen the context window of a transformer, and measure what came of it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    methods,
    plan,
    search,
    extend,
    doctor,
    train,
    eval,
    compare,
    report,
    generate,
    export,
    serve,
    bench,
    demo,
):
    app.command(_command.__name__.rpartition(".")[2])(_command.run)
for _system in (cpt, discrec, xlpe):
    app.add_typer(_system.app, name=_system.__name__.rpartition(".")[2])


@app.callback(invoke_without_command=True)
def _program(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"longspan {installed('longspan')}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every mistake of the user ends as one line on stderr.

    Returns:
        0 done, 1 a check failed, 2 the user's mistake, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    COMMAND.set(shlex.join(["longspan", *arguments]))
    with interrupts.noticed():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        code = typer.main.get_command(app).main(arguments or ["--help"], prog_name="longspan", standalone_mode=False)
        if code == _INTERRUPTED:  # typer has caught Ctrl-C itself
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except LongspanError as error:
        return _fail(str(error), error.exit_code)
    except (Interrupted, typer.Abort, KeyboardInterrupt) as interrupt:
        kept = "interrupted; what was finished is kept: the same command goes on from there"
        return _fail(str(interrupt) or kept, _INTERRUPTED)
    except _UsageError as error:
        usage: Any = error
        return _fail(f"{usage.format_message()} (see `longspan --help`)", 2)
    except BrokenPipeError:  # the reader of a pipe has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        advice = next((text for numbers, text in _ADVICE.items() if error.errno in numbers), None)
        if advice is None:
            raise
        return _fail(f"{error.filename or 'disk'}: {error.strerror}; {advice}", 2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, without importing torch for `--help`
            raise
        return _fail("out of memory: take a shorter length, a smaller batch, --dtype bfloat16 or --device cpu", 2)


def _fail(message: str, code: int) -> int:
    print(f"longspan: error: {' '.join(message.split())}", file=sys.stderr)
    return code
