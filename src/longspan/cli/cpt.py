"""`longspan cpt train|finetune|evaluate`: continual pre-training over domains, and the matrix of what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longspan.cli.options import Common, as_rows, with_common

if TYPE_CHECKING:
    from longspan.systems.hprompt_cpt import CptConfig

app = typer.Typer(
    help="Continual pre-training over domains: train the stages, fill the matrix, tune one model.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Settings = Annotated[Path, typer.Argument(metavar="CPT.yaml", help="Settings: model, domains, orders, arms.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given again.")
]
Arms = Annotated[
    list[str] | None, typer.Option("--arm", metavar="NAME", help="Arms (all); processes may share the work by arms.")
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the run (runs/NAME).")]


@app.command("train")
@with_common
def train(config: Settings, arm: Arms = None, set_: Set = None, out: Out = None, *, common: Common) -> None:
    """Train all arms stage by stage, in all orders, with all seeds. A run that was stopped goes on where it was."""
    settings, folder = _begin(config, set_, out, common)
    from longspan.systems.hprompt_cpt.run import train as run

    typer.echo(str(run(settings, folder, arms=arm, progress=not common.quiet)))
    common.write({"out": str(folder)})


@app.command("evaluate")
@with_common
def evaluate(config: Settings, arm: Arms = None, set_: Set = None, out: Out = None, *, common: Common) -> None:
    """Tune and test every stage on every domain; DIR gets records.jsonl, table.md and report.html.

    With --arm, the cells of those arms are measured and kept, and the report waits for a call without.
    """
    settings, folder = _begin(config, set_, out, common)
    from longspan.records import read_records
    from longspan.systems.hprompt_cpt.run import TABLE_FILE
    from longspan.systems.hprompt_cpt.run import evaluate as run

    run(settings, folder, arms=arm, progress=not common.quiet)
    if arm:
        common.write({"out": str(folder)})
        return
    typer.echo((folder / TABLE_FILE).read_text(encoding="utf-8"))
    common.write({"out": str(folder), "records": as_rows(read_records(folder))})


@app.command("finetune")
@with_common
def finetune(
    config: Settings,
    arm: Annotated[str, typer.Option(metavar="NAME", help="Arm whose model is tuned.")],
    stage: Annotated[int, typer.Option(min=0, help="Stage after which; 0 is the initial model.")],
    domain: Annotated[str, typer.Option(metavar="NAME", help="Domain whose labels are learned, seen before or not.")],
    into: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the tuned model.")],
    order: Annotated[str | None, typer.Option(metavar="NAME", help="Order of the stages (the first).")] = None,
    set_: Set = None,
    out: Out = None,
    *,
    common: Common,
) -> None:
    """Tune the model of any stage on any domain, and keep it. It is not told which domain: prompts follow from text."""
    settings, folder = _begin(config, set_, out, common)
    from longspan.systems.hprompt_cpt.run import finetune as run

    assert settings.orders is not None
    order = order or next(iter(settings.orders))
    told = run(settings, folder, arm=arm, order=order, seed=settings.seeds[0], stage=stage, domain=domain, into=into)
    typer.echo(f"{into}  accuracy {told['accuracy']:.4f} on {told['n']} test samples")
    common.write({"out": str(into), **told})


def _begin(config: Path, set_: list[str] | None, out: Path | None, common: Common) -> tuple[CptConfig, Path]:
    """The settings, and the folder of the run."""
    from longspan.systems.hprompt_cpt import CptConfig

    common.refuse_dtype()
    given = [f"seeds=[{common.seed}]"] if common.seed is not None else []
    given += [f"device={common.device}"] if common.device is not None else []
    settings = CptConfig.from_yaml(config, [*(set_ or []), *given])
    common.prepare()
    return settings, out or Path("runs") / settings.name
