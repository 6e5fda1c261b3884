"""Options that every command takes, and what commands do with them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from longspan.cli.interrupts import interrupts
from longspan.errors import ConfigError, LongspanError

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]


COMMAND: ContextVar[str] = ContextVar("command", default="")
"""The command that runs, as a shell takes it."""


class Interrupted(Exception):
    """Ctrl-C ended a command: KeyboardInterrupt itself would be taken by typer, and what it says lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """Values of the common options; None where the user gave none."""

    json: Path | None = None
    seed: int | None = None
    device: Device | None = None
    dtype: Dtype | None = None
    quiet: bool = False
    trust_remote_code: bool = False

    def say(self, text: str) -> None:
        """A note for the person at the terminal; the result itself goes to stdout by `typer.echo`."""
        if not self.quiet:
            typer.echo(text, err=True)

    def write(self, result: Any) -> None:
        """Write the machine-readable result where `--json` says."""
        if self.json is not None:
            from longspan.files import write_json

            write_json(self.json, result)

    def refuse_dtype(self) -> None:
        """Say so where a command has one number format.

        Raises:
            ConfigError: another was asked for.
        """
        if self.dtype not in (None, "float32"):
            raise ConfigError("--dtype has no effect here: all is computed in float32; leave it out")

    def prepare(self) -> None:
        """Settle what torch and transformers shall do: the seed, and no chatter beside our own."""
        import torch
        import transformers

        torch.manual_seed(self.seed or 0)
        transformers.utils.logging.set_verbosity_error()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it writes a line for each try to reach the hub
        if self.quiet or not sys.stderr.isatty():
            transformers.utils.logging.disable_progress_bar()
        interrupts.ready()

    def load_model(self, name: str) -> Any:
        """The model at `name`, on the device and in the dtype asked for."""
        from longspan.models import load_model

        return load_model(
            name, device=self.device or "auto", dtype=self.dtype, trust_remote_code=self.trust_remote_code
        )

    def load_tokenizer(self, name: str) -> Any:
        """The tokenizer of the model at `name`."""
        from longspan.models import load_tokenizer

        return load_tokenizer(name, trust_remote_code=self.trust_remote_code)


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "json": (Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JSON too.")], None),
    "seed": (Annotated[int | None, typer.Option(min=0, help="All randomness follows from it (0).")], None),
    "device": (Annotated[Device | None, typer.Option(help="Where to compute (auto).")], None),
    "dtype": (Annotated[Dtype | None, typer.Option(help="Number format (the checkpoint's own).")], None),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no notes.")], False),
}

_MODEL_OPTIONS: dict[str, tuple[Any, Any]] = {
    "trust_remote_code": (
        Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that the model brings.")],
        False,
    ),
}
"""Those of commands that load a model."""


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """Add the common options to a command, which receives them as its keyword argument `common`."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "common"]
    options = {**_OPTIONS, **(_MODEL_OPTIONS if "model" in signature.parameters else {})}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]

    @functools.wraps(command)
    def run(*positional: Any, **named: Any) -> None:
        common = Common(**{name: named.pop(name) for name in options})
        try:
            command(*positional, **named, common=common)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(str(interrupt)) from interrupt
        except Exception as error:
            # an import that Ctrl-C has broken ends in errors of its own; what the user is told in one line stays
            if interrupts.asked and not isinstance(error, LongspanError | OSError):
                raise Interrupted from error
            raise

    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
    return run


def as_rows(records: Any) -> list[dict[str, Any]]:
    """Records in the form that JSON writes."""
    return [dataclasses.asdict(record) for record in records]


MODEL_HELP = "Hugging Face folder, hub name, or llama2.c checkpoint (folder)."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]

Again = Annotated[
    bool, typer.Option("--again", help="Extend a model that is extended already: new frequencies replace the old.")
]
