"""`longspan train`: one training run from one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli.options import Common, as_rows, with_common


@with_common
def run(
    config: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="Settings of the run.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given again.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder (runs/NAME).")] = None,
    *,
    common: Common,
) -> None:
    """Train a model, new or given, by one YAML file.

    A run that was stopped goes on where it was.
    """
    from longspan.train.config import RunConfig

    settings = RunConfig.from_yaml(config, [*(set_ or []), *overrides(common)])
    from longspan.records import read_records
    from longspan.train.run import train

    common.prepare()
    folder = out or Path("runs") / settings.name
    checkpoint = train(settings, folder, progress=not common.quiet)
    typer.echo(str(checkpoint))
    common.write({"checkpoint": str(checkpoint), "records": as_rows(read_records(folder))})


def overrides(common: Common, inside: str = "") -> list[str]:
    """The common options as settings of a run: an option that was given wins over the file."""
    given = {"seed": common.seed, "device": common.device, "dtype": common.dtype}
    return [f"{inside}{key}={value}" for key, value in given.items() if value is not None]
