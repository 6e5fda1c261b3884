"""`longspan bench`: what things cost, as ratios against peers in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longspan.bench.suites import SUITES, find_suites
from longspan.cli.options import Common, as_rows, with_common

_SUITE = typer.Option("--suite", metavar="NAME", help=f"One of {', '.join(SUITES)}; may be given again (all).")


@with_common
def run(
    suite: Annotated[list[str] | None, _SUITE] = None,
    lengths: Annotated[
        str | None, typer.Option(metavar="LENGTHS", help="Tokens, such as 512,4k,32k (each suite's own).")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Time for each set of contestants and length, at the least.")
    ] = 5.0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the records here; those of other suites stay.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw time and memory by length here.")] = None,
    *,
    common: Common,
) -> None:
    """Measure what things cost against plain RoPE, peers and the physical limit.

    Contestants take turns in one process; a ratio is the median of their turns, with its quartiles. Numbers are true of
    a quiet machine only. Without --dtype it is float32 on processors and bfloat16 on CUDA.
    """
    from longspan.errors import ConfigError
    from longspan.lengths import parse_lengths

    options = [name for name, value in {"lengths": lengths, "device": common.device, "dtype": common.dtype}.items()
               if value is not None]  # fmt: skip
    suites = find_suites(suite or [], options)
    tokens = None if lengths is None else tuple(parse_lengths(lengths))
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder: name the file of the records, such as {out / 'records.jsonl'}")
    import torch

    from longspan.bench.runner import run_suites
    from longspan.bench.settings import BenchSettings
    from longspan.models.loading import torch_device
    from longspan.report.bench import record_line, write_bench_plots

    common.prepare()
    device = torch_device(common.device or "auto")
    dtype = common.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    settings = BenchSettings(
        lengths=tokens,
        seconds=seconds,
        device=device,
        dtype=getattr(torch, dtype),
        seed=common.seed or 0,
        progress=not common.quiet,
    )
    measures = {name: found.load() for name, found in suites.items()}
    records = run_suites(measures, settings, out=out, say=lambda record: typer.echo(record_line(record)))
    files = [] if plots is None else write_bench_plots(records, plots)
    for path in files:
        typer.echo(str(path))
    common.write({"records": as_rows(records), "plots": [str(path) for path in files]})
