"""`longspan report`: one HTML page from the records of one or more runs; plots and Markdown if asked for."""

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
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tables as Markdown, too.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Write each chart as a file, too.")] = None,
    plot_format: Annotated[
        str | None, typer.Option(metavar="FORMATS", help="With --plots: svg, png or svg,png (svg).")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Effective length: what a score's lower bound must reach.")
    ] = 0.5,
    *,
    common: Common,
) -> None:
    """Write one HTML page from the records of runs; plots and Markdown on request."""
    from longspan.errors import ConfigError
    from longspan.report import read_sources, write_markdown, write_page, write_plots

    interrupts.ready()
    if plot_format is not None and plots is None:
        raise ConfigError("--plot-format has no effect without --plots: name the folder there")
    sources = read_sources(run_dirs)
    formats = [name.strip() for name in (plot_format or "svg").split(",")]
    written = [] if plots is None else write_plots(sources.results, plots, formats)
    if markdown is not None:
        written.append(write_markdown(sources, markdown, threshold=threshold))
    page = write_page(sources, out, threshold=threshold)
    for path in [page, *written]:
        typer.echo(str(path))
    files = [str(path) for path in written]
    common.write({"report": str(page), "files": files, "runs": [str(folder) for folder in run_dirs]})
