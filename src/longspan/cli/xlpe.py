"""`longspan xlpe`: translation with cross-lingual positions, after the idea of XL-PE."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from longspan.cli.options import Common, as_rows, with_common

app = typer.Typer(help="Translate with cross-lingual positions (after the idea of XL-PE).")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a prepared study.")]


@app.command()
@with_common
def prepare(
    config: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Settings of the study.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the study; a second call goes on.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given again.")
    ] = None,
    *,
    common: Common,
) -> None:
    """Align words, train the reorderer, order all sentences, learn sub-words."""
    from longspan.systems.xl_pe.config import StudySettings

    settings = StudySettings.from_yaml(config, set_ or [])
    common.prepare()
    from longspan.systems.xl_pe.preparing import prepare

    folder = prepare(settings, out, progress=not common.quiet, say=common.say)
    typer.echo(str(folder.root))
    common.write({"folder": str(folder.root), "arms": list(settings.arms), "seeds": settings.seeds})


@app.command()
@with_common
def validate(
    pairs: Annotated[Path, typer.Option(metavar="FILE", help="Sentence pairs, `source ||| target` a line.")],
    alignments: Annotated[Path, typer.Option(metavar="FILE", help="Their word alignments, `0-0 1-2 ...` a line.")],
    first_index: Annotated[int, typer.Option(min=0, max=1, help="The number of the first word.")] = 0,
    reverse: Annotated[bool, typer.Option("--reverse", help="Put the target into the source's order.")] = False,
    folds: Annotated[int, typer.Option(min=2, help="Parts that are held out in turn.")] = 5,
    iterations: Annotated[int, typer.Option(min=1, help="Passes over the sentences.")] = 20,
    beam: Annotated[int, typer.Option(min=1, help="States that the search keeps.")] = 20,
    records: Annotated[Path | None, typer.Option(metavar="FILE", help="Add the numbers to these records.")] = None,
    *,
    common: Common,
) -> None:
    """Judge the reorderer by cross-validation against word alignments."""
    from longspan.systems.xl_pe.validation import validate_files

    common.prepare()
    measured = validate_files(
        pairs,
        alignments,
        first_index=1 if first_index else 0,
        reverse=reverse,
        folds=folds,
        iterations=iterations,
        beam=beam,
        seed=common.seed or 0,
        on_fold=lambda done: common.say(f"fold {done} of {folds}"),
    )
    for record in measured:
        interval = "" if record.low is None else f" ({record.low:.3f} to {record.high:.3f})"
        typer.echo(f"{record.task:22} {record.model:9} {record.metric:17} {record.value:.3f}{interval}, n {record.n}")
    if records is not None:
        from longspan.records import append_records

        append_records(records, measured)
    common.write({"records": as_rows(measured)})


@app.command()
@with_common
def train(
    folder: Folder,
    arm: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Arms to train (all).")] = None,
    *,
    common: Common,
) -> None:
    """Train the arms of a study by all its seeds (or --seed alone).

    Arms that are trained are passed over; one that was stopped goes on where it was. Several processes may train
    different arms or seeds at the same time.
    """
    common.refuse_dtype()
    common.prepare()
    from longspan.systems.xl_pe.preparing import StudyFolder
    from longspan.systems.xl_pe.training import train_arm

    study = StudyFolder(folder)
    settings = study.settings()
    runs = []
    for seed in settings.seeds if common.seed is None else [common.seed]:
        for name in arm or settings.arms:
            runs.append(str(train_arm(study, name, seed, device=common.device, progress=not common.quiet)))
            typer.echo(runs[-1])
    common.write({"runs": runs})


@app.command()
@with_common
def evaluate(folder: Folder, *, common: Common) -> None:
    """Translate the test pairs by all trained arms: BLEU, chrF, paired bootstrap against the baseline."""
    common.refuse_dtype()
    common.prepare()
    from longspan.records import read_records
    from longspan.systems.xl_pe.preparing import StudyFolder
    from longspan.systems.xl_pe.scoring import evaluate

    study = StudyFolder(folder)
    typer.echo(evaluate(study, device=common.device, say=common.say), nl=False)
    common.write({"records": as_rows(read_records(study.records))})


@app.command()
@with_common
def translate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained arm, DIR/runs/ARM-SEED.")],
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A sentence a line, words parted by blanks (standard input).")
    ] = None,
    beams: Annotated[int, typer.Option(min=1, help="Beam of the translation.")] = 4,
    show_order: Annotated[bool, typer.Option("--show-order", help="Write the source in target order, too.")] = False,
    *,
    common: Common,
) -> None:
    """Translate sentences, a line each."""
    common.refuse_dtype()
    common.prepare()
    from longspan.systems.xl_pe.alignment import read_sentences, split_words
    from longspan.systems.xl_pe.translating import Translator

    if text is not None:
        sentences = read_sentences(text)
    else:
        lines = enumerate(sys.stdin.read().splitlines(), start=1)
        sentences = [split_words(line, f"standard input, line {number}") for number, line in lines]
    translator = Translator.load(run, common.device or "auto")
    orders = translator.orders(sentences)
    rows: list[dict[str, Any]] = []
    for words, order, line in zip(sentences, orders, translator.translate(sentences, orders, beams=beams), strict=True):
        reordered = " ".join(words[place] for place in order)
        typer.echo(f"{reordered}\t{line}" if show_order else line)
        rows.append({"source": " ".join(words), "order": order, "translation": line})
    common.write({"translations": rows})
