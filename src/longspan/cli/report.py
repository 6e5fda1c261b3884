"""`longspan report`: one HTML page from the records of one or more runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli.interrupts import interrupts
from longspan.cli.options import Common, with_common


@with_common
def run(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Folders that hold records.jsonl.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("report.html"),
    *,
    common: Common,
) -> None:
    """Write one HTML page from the records of runs."""
    from longspan.report import write_report

    interrupts.ready()
    page = write_report(run_dirs, out)
    typer.echo(str(page))
    common.write({"report": str(page), "runs": [str(folder) for folder in run_dirs]})
