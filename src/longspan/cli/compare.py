"""`longspan compare`: methods x lengths x seeds on equal terms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli.options import Common, as_rows, with_common
from longspan.cli.train import overrides


@with_common
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Settings of the study.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given again.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder (runs/NAME).")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Arms at the same time.")] = 1,
    *,
    common: Common,
) -> None:
    """Compare methods, lengths and seeds on equal terms.

    Trains, extends and measures every arm; writes records, a table and one HTML page. A study that was stopped goes
    on where it was.
    """
    from longspan.study.config import StudyConfig

    seeds = [] if common.seed is None else [f"seeds=[{common.seed}]"]
    run_settings = [setting for setting in overrides(common, "run.") if not setting.startswith("run.seed=")]
    settings = StudyConfig.from_yaml(study, [*(set_ or []), *seeds, *run_settings])
    from longspan.records import read_records
    from longspan.study.run import compare

    common.prepare()
    folder = out or Path("runs") / settings.name
    compare(settings, folder, jobs=jobs, progress=not common.quiet)
    typer.echo((folder / "table.md").read_text(encoding="utf-8"))
    common.say(f"records, table and page in {folder}: open {folder / 'report.html'}")
    common.write({"out": str(folder), "records": as_rows(read_records(folder))})
