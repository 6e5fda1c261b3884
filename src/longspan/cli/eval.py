"""`longspan eval`: measure a model past its training window, cell by cell into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from longspan.cli.options import MODEL_HELP, Again, Common, as_rows, with_common
from longspan.errors import ConfigError


@with_common
def run(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP)] = None,
    lengths: Annotated[
        str | None, typer.Option(metavar="LENGTHS", help="Windows to measure, such as 512,1k,2k.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Folder for records.jsonl; a second call goes on.")
    ] = None,
    tasks: Annotated[
        str, typer.Option(metavar="TASKS", help="Tasks and groups of them, such as perplexity,ruler.")
    ] = "perplexity",
    list_tasks: Annotated[bool, typer.Option("--list-tasks", help="Print the tasks and groups, and end.")] = False,
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
    trials: Annotated[int | None, typer.Option(min=1, help="Prompts: how many for each length and depth (10).")] = None,
    depths: Annotated[int | None, typer.Option(min=1, help="Prompts: steps from start to end (11).")] = None,
    decoding: Annotated[
        Literal["auto", "forced", "generate"] | None,
        typer.Option(help="Prompts: greedy answers (auto, generate), or only those that begin rightly (forced)."),
    ] = None,
    haystack: Annotated[
        str | None,
        typer.Option(metavar="FILE_OR_DIR", help="Prompts: text that needles are hidden in (made-up prose)."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Files of external sets, such as LongBench; tasks of lm-eval.")
    ] = None,
    overlong: Annotated[
        Literal["leave-out", "cut"] | None,
        typer.Option(help="External sets: samples over a length are left out, or cut in the middle (by the set)."),
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="External sets: the first rows of a file alone (all).")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Prompts: go through the model's chat template.")] = False,
    keep_samples: Annotated[
        bool, typer.Option("--keep-samples", help="Prompts: keep each with its answer in samples.jsonl.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Sequences at a time (by memory).")] = None,
    *,
    common: Common,
) -> None:
    """Measure a model past its training window.

    Perplexity by length, loss by position, retrieval and other tasks by length and depth.
    """
    if list_tasks:
        _list(common)
        return
    from longspan.cli.evaluation import Evaluation, Settings

    for name, value in (("MODEL", model), ("--lengths", lengths), ("--out", out)):
        if value is None:
            raise ConfigError(f"{name} is missing: longspan eval MODEL --lengths 512,1k --out RUN_DIR")
    assert model is not None
    assert lengths is not None
    assert out is not None

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
        haystack=haystack,
        data=data,
        overlong=overlong,
        max_samples=max_samples,
        chat=chat or None,
        keep_samples=keep_samples or None,
        batch_size=batch_size,
        seed=common.seed or 0,
    )
    evaluation = Evaluation(model, settings, out, common)
    records = evaluation.run()
    if not evaluation.processes.first:
        return
    for table in evaluation.tables(records):
        typer.echo(table)
    common.say(f"records in {out / 'records.jsonl'}; a page of them: longspan report {out} --out report.html")
    common.write({"records": as_rows(records)})


def _list(common: Common) -> None:
    """The tasks, each with the first line of its card, and the groups."""
    from longspan.evaluate.tasks import all_tasks, open_tasks, summary, task_groups

    rows = {name: summary(name) for name in all_tasks()}
    rows |= {f"{name}:TASK": summary(f"{name}:TASK") for name in open_tasks()}
    groups = {name: list(names) for name, names in task_groups().items()}
    width = max(map(len, [*rows, *groups]))
    for name, text in rows.items():
        typer.echo(f"{name:{width}}  {text}")
    typer.echo()
    for name, names in groups.items():
        typer.echo(f"{name:{width}}  {', '.join(names)}")
    common.write({"tasks": rows, "groups": groups})
