"""`longspan eval`: measure a model past its training window, cell by cell into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from longspan.cli.options import Again, Common, Model, as_rows, with_common


@with_common
def run(
    model: Model,
    lengths: Annotated[str, typer.Option(metavar="LENGTHS", help="Windows to measure, such as 512,1k,2k.")],
    out: Annotated[Path, typer.Option(metavar="RUN_DIR", help="Folder for records.jsonl; a second call goes on.")],
    tasks: Annotated[str, typer.Option(metavar="TASKS", help="Of perplexity, position, passkey.")] = "perplexity",
    text: Annotated[str | None, typer.Option(metavar="FILE_OR_DIR", help="Text for perplexity and position.")] = None,
    extend: Annotated[str | None, typer.Option(metavar="METHODS", help="Extend the model first, unsaved.")] = None,
    target_length: Annotated[
        str | None, typer.Option(metavar="LENGTH", help="Reach of --extend (the longest of --lengths).")
    ] = None,
    original_length: Annotated[
        str | None, typer.Option(metavar="LENGTH", help="With --extend: trained length, if the config does not say.")
    ] = None,
    again: Again = False,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Perplexity: tokens between windows (a quarter of them, at most 512).")
    ] = None,
    variant: Annotated[
        Literal["matched", "all"] | None,
        typer.Option(help="Perplexity: the same targets at every length (matched), or all tokens."),
    ] = None,
    max_targets: Annotated[
        int | None, typer.Option(min=1, help="Perplexity: scored tokens of a document at most (all).")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Passkey: prompts for each length and depth (10).")] = None,
    depths: Annotated[int | None, typer.Option(min=1, help="Passkey: steps from start to end (11).")] = None,
    decoding: Annotated[
        Literal["auto", "forced", "generate"] | None,
        typer.Option(help="Passkey: greedy answers (auto, generate), or only those that begin with the key (forced)."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Sequences at a time (by memory).")] = None,
    *,
    common: Common,
) -> None:
    """Measure a model past its training window.

    Perplexity by length, loss by position in the longest window, passkey retrieval by length and depth.
    """
    from longspan.cli.evaluation import Evaluation, Settings

    settings = Settings.parse(
        tasks=tasks,
        lengths=lengths,
        text=text,
        extend=extend,
        target_length=target_length,
        original_length=original_length,
        again=again or None,
        stride=stride,
        variant=variant,
        max_targets=max_targets,
        trials=trials,
        depths=depths,
        decoding=decoding,
        batch_size=batch_size,
        seed=common.seed or 0,
    )
    evaluation = Evaluation(model, settings, out, common)
    records = evaluation.run()
    for table in evaluation.tables(records):
        typer.echo(table)
    common.say(f"records in {out / 'records.jsonl'}; a page of them: longspan report {out} --out report.html")
    common.write({"records": as_rows(records)})
