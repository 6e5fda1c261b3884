"""`longspan demo`: the main job on text that every Python brings along."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli.options import Common, as_rows, with_common


@with_common
def run(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Run folder.")] = Path("runs/demo"),
    *,
    common: Common,
) -> None:
    """Run the main job in miniature, in minutes.

    Trains small models on a short window, extends them, and measures them far past it, on the source of Python's own
    library; needs no network.
    """
    from longspan.errors import ConfigError

    if common.dtype is not None:
        raise ConfigError("--dtype has no effect on the demo, which computes in float32: leave it out")
    from longspan.records import read_records
    from longspan.study import demo

    common.prepare()
    demo.run(out, quiet=common.quiet, seed=common.seed or 0, device=common.device or "auto")
    common.write({"out": str(out), "records": as_rows(read_records(out))})
