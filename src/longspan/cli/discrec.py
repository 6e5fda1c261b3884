"""`longspan discrec`: recommendation by semantic IDs, from a file of interactions to items for one user."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from longspan.cli.options import Common, as_rows, with_common

app = typer.Typer(
    help="Generative recommendation with item-level positions (DiscRec): prepare, train, evaluate, recommend.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated.")]
Batch = Annotated[int, typer.Option(min=1, help="Users at a time.")]


@app.command()
@with_common
def prepare(
    interactions: Annotated[
        Path, typer.Argument(metavar="FILE_OR_DIR", help="JSON of a public set, CSV, S3Rec's text, MovieLens, RecBole.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ready semantic IDs (*.index.json; found beside *.inter.json).")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Item vectors to make IDs from, a row an item.")
    ] = None,
    attributes: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help='Attributes of items: {"item": [attribute, ...]}.')
    ] = None,
    names: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Names: columns item and title.")] = None,
    core: Annotated[
        int, typer.Option(min=1, help="Leave out users and items of fewer events, until none is left.")
    ] = 1,
    set_: Set = None,
    *,
    common: Common,
) -> None:
    """Read interactions and give every item a semantic ID: a ready one, or one by an RQ-VAE of our own.

    Without --ids the RQ-VAE learns from --vectors, or from attributes, names and who took what.
    """
    from longspan.systems.discrec.command import Sources, prepare_data

    common.prepare()
    sources = Sources(interactions, ids, vectors, attributes, names)
    overrides = [*(set_ or []), *([] if common.seed is None else [f"seed={common.seed}"])]
    device, progress = common.device or "auto", not common.quiet
    summary = prepare_data(sources, out, core=core, overrides=overrides, device=device, progress=progress)
    for key in ("users", "items", "events", "training_samples", "levels", "distinct_ids"):
        typer.echo(f"{key.replace('_', ' '):18}  {summary[key]:,}")
    for key in ("collisions_before", "collisions"):
        if key in summary:
            typer.echo(f"{key.replace('_', ' '):18}  {summary[key]:.2%}")
    common.write({"out": str(out), **summary})


@app.command()
@with_common
def train(
    config: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Settings: data, arms, seeds, schedule.")],
    arm: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Arms to train (all).")] = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the runs (runs/NAME).")] = None,
    *,
    common: Common,
) -> None:
    """Train every arm of a study with every seed, each in DIR/ARM-SEED.

    Runs that are done are left as they are; one that was stopped goes on where it was. Several processes may train
    different arms or seeds at the same time.
    """
    from longspan.systems.discrec.run import train_study
    from longspan.systems.discrec.settings import StudySettings

    given = {"seeds": None if common.seed is None else [common.seed], "device": common.device, "dtype": common.dtype}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    settings = StudySettings.from_yaml(config, [*(set_ or []), *overrides])
    common.prepare()
    folders = train_study(settings, out or Path("runs") / settings.name, arms=arm, progress=not common.quiet)
    for folder in folders:
        typer.echo(str(folder))
    common.write({"runs": [str(folder) for folder in folders]})


@app.command()
@with_common
def evaluate(
    runs: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run, or of the runs of a study.")],
    part: Annotated[Literal["test", "validation"], typer.Option(help="Which item of each user is foretold.")] = "test",
    beams: Annotated[int, typer.Option(min=10, help="Beams, and items in a list.")] = 20,
    users: Annotated[int | None, typer.Option(min=1, help="Users, drawn by the seed (all).")] = None,
    batch: Batch = 32,
    *,
    common: Common,
) -> None:
    """Recall and NDCG at 5 and 10 over the whole catalogue, with intervals.

    Writes DIR/test.jsonl and DIR/test.md, or those of the validation items.
    """
    common.refuse_dtype()
    from longspan.systems.discrec.command import evaluate_runs
    from longspan.systems.discrec.evaluate import Protocol

    common.prepare()
    protocol = Protocol(part, beams, users, common.seed or 0)
    table, records = evaluate_runs(
        runs, protocol, batch=batch, device=common.device or "auto", progress=not common.quiet
    )
    typer.echo(table)
    common.write({"records": as_rows(records)})


@app.command()
@with_common
def recommend(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    user: Annotated[str | None, typer.Option(help="A user of the data.")] = None,
    items: Annotated[str | None, typer.Option(metavar="ITEM,ITEM", help="Or a history, oldest item first.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Items to name.")] = 10,
    unseen: Annotated[bool, typer.Option("--unseen", help="Leave out what is in the history.")] = False,
    *,
    common: Common,
) -> None:
    """What a user would take next: rank, score (log-probability), item, and its name where known."""
    common.refuse_dtype()
    from longspan.models import torch_device
    from longspan.systems.discrec.recommend import recommend as recommendations

    common.prepare()
    history = [item.strip() for item in items.split(",")] if items else []
    device = torch_device(common.device or "auto")
    found = recommendations(run, user=user, items=history, top=top, unseen=unseen, device=device)
    for rank, row in enumerate(found, start=1):
        typer.echo(f"{rank:3}  {row.score:8.3f}  {row.item}  {row.name or ''}{'  (seen)' if row.seen else ''}".rstrip())
    common.write({"recommendations": [dataclasses.asdict(row) for row in found]})
