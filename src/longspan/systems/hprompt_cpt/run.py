"""`train` takes all arms through all orders with all seeds; `evaluate` fills the matrix; `finetune` tunes one model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tqdm import tqdm

from longspan.errors import ConfigError, DataError
from longspan.evaluate.matrix import matrix_eval
from longspan.files import alone_in, write_json, write_text
from longspan.records import Record, append_records, read_records
from longspan.report.matrix import matrix_table
from longspan.report.page import write_report
from longspan.systems.hprompt_cpt.cells import CellScorer, cell_records
from longspan.systems.hprompt_cpt.config import CptConfig
from longspan.systems.hprompt_cpt.course import RECORDS, Course
from longspan.systems.hprompt_cpt.ground import MODEL, Ground, check_settings
from longspan.systems.hprompt_cpt.stage_run import StageRun
from longspan.systems.hprompt_cpt.summaries import summary_records
from longspan.systems.hprompt_cpt.tuning import tune_classifier
from longspan.train.states import remove_leftovers, writing_folder

READING = (
    "HPrompt-CPT (arXiv:2310.13024) is our reading of its abstract and opening: no number here reproduces the paper's."
)
CONFIG_FILE, CELLS, TABLE_FILE, REPORT_FILE = "cpt.yaml", "cells", "table.md", "report.html"


def train(config: CptConfig, out: Path | str, *, arms: Sequence[str] | None = None, progress: bool = True) -> Path:
    """Train every stage of every arm, order and seed that is not there yet; returns `out`.

    A run that was stopped goes on from the last saved state of the stage in progress, to the same weights. Further
    arms, orders and seeds may be added to the settings later.

    Args:
        arms: those alone; other processes may train others at the same time.

    Raises:
        ConfigError: settings that cannot be used, or others than those that `out` was made with.
        DataError, CheckpointError: domains, model or tokenizer cannot be used.
        TrainingError: a loss became no number.
    """
    out = Path(out)
    with alone_in(out, wait=True):  # what all arms share is made once
        ground = Ground.prepare(config, out)
        chosen = list(courses(ground, arms))
        write_text(out / CONFIG_FILE, config.to_yaml())
        for seed in config.seeds:
            ground.make_initial(seed)
        for course in chosen:
            course.check()
    todo = [(course, stage) for course in chosen for stage in course.stages if not course.is_done(stage)]
    with _bar(sum(course.steps for course, _ in todo), "steps", shown=progress) as bar:
        for course, stage in todo:
            bar.set_description_str(f"{course.name} {stage}/{len(course.order)} {course.domain_of(stage)}")
            with alone_in(course.folder):
                if course.is_done(stage):  # by another process meanwhile
                    continue
                remove_leftovers(course.folder)
                before = bar.n
                StageRun(course, stage).run(lambda told, before=before: bar.update(before + told.step - bar.n))  # type: ignore[misc]
    return out


def evaluate(config: CptConfig, out: Path | str, *, arms: Sequence[str] | None = None, progress: bool = True) -> Path:
    """Tune and test all cells of the matrix that are not there yet, and report; returns `out`.

    In `out` appear `records.jsonl`, `table.md` and `report.html`; the cells are kept in `cells`.

    Args:
        arms: the cells of those alone, and no report; other processes may measure others at the same time.

    Raises:
        ConfigError: a stage has not been trained, or `out` or its cells were made with other settings or tasks.
    """
    out = Path(out)
    with alone_in(out, wait=True):
        ground = Ground.prepare(config, out)
        chosen = list(courses(ground, arms))
        for course in chosen:
            course.check()
            missing = [stage for stage in course.stages if not course.is_done(stage)]
            if missing:
                raise ConfigError(
                    f"{course.name}: stage {missing[0]} has not been trained in {out}: run `cpt train` first"
                )
        for seed in config.seeds:
            ground.check_initial(seed)
        cells = _cells_folder(ground)
    count = sum(course.wants(i, name) for course in chosen for i in (0, *course.stages) for name in course.order)
    with _bar(count, "cells", shown=progress) as bar:
        found = [(course, _fill(course, cells, bar)) for course in chosen]
    if arms is None:
        _write_results(ground, found, out)
    return out


def finetune(
    config: CptConfig, out: Path | str, *, arm: str, order: str, seed: int, stage: int, domain: str, into: Path | str
) -> dict[str, Any]:
    """Tune the model after `stage` on `domain` and keep it in the folder `into`; returns its score.

    The folder holds `model` (Hugging Face), `head.safetensors` and `score.json`, and `prompts.safetensors` if the arm
    has prompts: `arm`, `order` and `seed` then lead to the encoder, the initial model of the run.

    Raises:
        ConfigError: a name that the settings lack, or a stage that has not been trained.
        DataError: the domain has no labels.
    """
    out, into = Path(out), Path(into)
    ground = Ground.prepare(config, out)
    for what, name, known in (
        ("arm", arm, config.arms),
        ("order", order, config.orders or {}),
        ("domain", domain, config.domains),
    ):
        _check_known(what, name, known)
    course = Course(ground, arm, order, seed)
    if stage not in (0, *course.stages) or seed not in config.seeds:
        raise ConfigError(f"{course.name} has no stage {stage}: its stages are {', '.join(map(str, course.stages))}")
    course.check()
    if stage and not course.is_done(stage):
        raise ConfigError(f"{course.name}: stage {stage} has not been trained in {out}: run `cpt train` first")
    if ground.domains[domain].train is None:
        raise DataError(f"domains.{domain} has no labels to tune on: set 'train' and 'test'")
    scorer = CellScorer(course)
    tuned = tune_classifier(scorer.learner(stage), ground.domains[domain], config.finetune, seed, ground.device)
    score = scorer.score(tuned, domain)
    told = {"domain": domain, "stage": stage, "arm": arm, "order": order, "seed": seed, **asdict(score)}
    told |= {"accuracy": score.right / score.n, "classes": list(ground.domains[domain].classes)}
    with writing_folder(into) as part:
        tuned.learner.model.model.save_pretrained(part / MODEL)
        ground.tokenizer.save_pretrained(part / MODEL)
        save_file({name: x.contiguous() for name, x in tuned.head.state_dict().items()}, part / "head.safetensors")
        if tuned.learner.source is not None:
            made = tuned.learner.source.maker.state_dict()
            save_file({name: x.contiguous() for name, x in made.items()}, part / "prompts.safetensors")
        write_json(part / "score.json", told)
    return told


def courses(ground: Ground, arms: Sequence[str] | None = None) -> Iterator[Course]:
    """Every arm, or those named, through every order with every seed.

    Raises:
        ConfigError: there is no arm of that name.
    """
    config = ground.config
    assert config.orders is not None
    for arm in arms or ():
        _check_known("arm", arm, config.arms)
    for seed in config.seeds:
        for order in config.orders:
            for arm in config.arms:
                if arms is None or arm in arms:
                    yield Course(ground, arm, order, seed)


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ConfigError(f"no {what} '{name}' in these settings: choose one of {', '.join(known)}")


def _cells_folder(ground: Ground) -> Path:
    """Where cells are kept, if those that are there were tuned and tested as these settings say."""
    folder = ground.out / CELLS
    settings = {"finetune": ground.config.to_json()["finetune"], "tasks": ground.tasks()}
    check_settings(folder, settings, f"set them back, or move {folder} away to measure all cells anew")
    return folder


def _fill(course: Course, folder: Path, bar: Any) -> list[Record]:
    """The records of all cells of a course, those that `folder` holds and those measured now."""
    scorer = CellScorer(course)

    def fill(rows: Sequence[int], path: Path) -> list[Record]:
        known: dict[tuple[int | None, str | None], list[Record]] = {}
        for record in read_records(path) if path.exists() else []:
            known.setdefault((record.stage, record.domain), []).append(record)

        def measure(stage: int, domain: str) -> list[Record]:
            bar.set_description_str(f"{course.name} {stage} on {domain}")
            return cell_records(course, stage, domain, scorer.cell(stage, domain))

        def found(stage: int, domain: str) -> list[Record]:
            bar.update()
            return known.get((stage, domain), [])

        return matrix_eval(
            rows,
            course.order,
            measure,
            found=found,
            on_records=partial(append_records, path),
            wanted=course.wants,
        )

    # row 0 is that of the initial model, the same for all arms and orders
    initial = course.ground.initial_folder(course.seed)
    with alone_in(initial, wait=True):
        records = fill([0], folder / f"initial-{course.seed}.jsonl")
    with alone_in(course.folder):
        return records + fill(course.stages, folder / f"{course.name}.jsonl")


def _write_results(ground: Ground, found: Sequence[tuple[Course, list[Record]]], out: Path) -> None:
    records: list[Record] = []
    for course, cells in found:
        records += read_records(course.folder / RECORDS)
        run = f"{ground.config.name}/{course.order_name}"
        records += [replace(record, run=run) for record in cells]
    records = list({json.dumps(asdict(record)): record for record in records}.values())  # row 0 comes with every arm
    records += summary_records(ground.config.name, records)
    write_text(out / RECORDS, "".join(json.dumps(asdict(record)) + "\n" for record in records))
    write_text(out / TABLE_FILE, f"# {ground.config.name}\n\n{matrix_table(records)}\n{READING}\n")
    write_report([out], out / REPORT_FILE, title=ground.config.name)


def _bar(total: int, unit: str, *, shown: bool) -> tqdm:
    settings = {"mininterval": 0.2 if sys.stderr.isatty() else 30}
    return tqdm(total=total, unit=unit, disable=not shown, **settings)
