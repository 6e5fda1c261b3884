"""`longspan train`: one training run from one YAML file, or from one length."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longspan.cli.options import Common, as_rows, with_common

if TYPE_CHECKING:
    from longspan.planner.dial import Dial


@with_common
def run(
    config: Annotated[Path | None, typer.Argument(metavar="[RUN.yaml]", help="Settings of the run.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given again.")
    ] = None,
    target_length: Annotated[
        str | None,
        typer.Option(metavar="LENGTH", help="Derive all settings that are not given from this length, such as 32k."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="The same as --set model.from=MODEL.")] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="The same as --set data.text=TEXT.")] = None,
    conversations: Annotated[
        str | None, typer.Option(metavar="FILE", help="The same as --set data.conversations=FILE.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder (runs/NAME).")] = None,
    *,
    common: Common,
) -> None:
    """Train a model, new or given, by one YAML file, or extend one by its target length alone.

    A run that was stopped goes on where it was.
    """
    from longspan.errors import ConfigError
    from longspan.train.settings import read_yaml, with_overrides

    if config is None and target_length is None:
        raise ConfigError("nothing to train by: give a RUN.yaml, or --target-length with --model and --text")
    named = {"model.from": model, "data.text": text, "data.conversations": conversations}
    # JSON is YAML, whatever the name of a file may look like
    given = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    values = with_overrides({} if config is None else read_yaml(config), [*(set_ or []), *given, *overrides(common)])
    dial = None if target_length is None else _turned(values, target_length, common, out)
    from longspan.train.config import RunConfig

    settings = RunConfig.parse(values if dial is None else dial.fill(values), str(config or "the command line"))
    if dial is not None:
        common.say(str(dial))
    from longspan.processes import is_first
    from longspan.records import read_records
    from longspan.train.run import train

    common.prepare()
    folder = out or Path("runs") / settings.name
    checkpoint = train(settings, folder, progress=not common.quiet)
    if not is_first():
        return
    typer.echo(str(checkpoint))
    result: dict[str, Any] = {"checkpoint": str(checkpoint), "records": as_rows(read_records(folder))}
    common.write(result if dial is None else {**result, "dial": dataclasses.asdict(dial)})


def _turned(values: dict[str, Any], length: str, common: Common, out: Path | None) -> Dial:
    """What follows from the target length; `values` are given a name if they have none."""
    from longspan.errors import ConfigError
    from longspan.lengths import format_length, parse_length

    target, model = parse_length(length), values.get("model")
    source = model.get("from") if isinstance(model, dict) else None
    if source is None:
        raise ConfigError("--target-length extends a trained model: name one with --model, or model.from in RUN.yaml")
    values.setdefault("data", {})  # so that what is missing is said more plainly
    values.setdefault("name", out.name if out else f"{Path(source).name}-{format_length(target)}")
    from longspan import surgery
    from longspan.models import load_outline
    from longspan.planner.dial import derive

    common.prepare()
    outline = load_outline(source)
    parameters = sum(parameter.numel() for parameter in outline.parameters())
    original = surgery.original_length(outline)
    return derive(values, target_length=target, original_length=original, parameters=parameters)


def overrides(common: Common, inside: str = "") -> list[str]:
    """The common options as settings of a run: an option that was given wins over the file."""
    given = {"seed": common.seed, "device": common.device, "dtype": common.dtype}
    return [f"{inside}{key}={value}" for key, value in given.items() if value is not None]
