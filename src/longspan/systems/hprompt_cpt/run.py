"""`train` takes all arms through all orders with all seeds; `evaluate` fills the matrix; `finetune` tunes one model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tqdm import tqdm

from longspan.errors import ConfigError, DataError
from longspan.evaluate.matrix import matrix_eval
from longspan.files import alone_in, write_json, write_text
from longspan.matrix import INITIAL
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

CONFIG_FILE, CELLS, TABLE_FILE, REPORT_FILE = "cpt.yaml", "cells", "table.md", "report.html"


def train(config: CptConfig, out: Path | str, *, progress: bool = True) -> Path:
    """Train every stage of every arm, order and seed that is not there yet; returns `out`.

    A run that was stopped goes on from the last saved state of the stage in progress, to the same weights. Further
    arms, orders and seeds may be added to the settings later.

    Raises:
        ConfigError: settings that cannot be used, or others than those that `out` was made with.
        DataError, CheckpointError: domains, model or tokenizer cannot be used.
        TrainingError: a loss became no number.
    """
    out = Path(out)
    with alone_in(out):
        ground = Ground.prepare(config, out)
        write_text(out / CONFIG_FILE, config.to_yaml())
        for seed in config.seeds:
            ground.make_initial(seed)
        for course in courses(ground):
            course.check()
        todo = [(course, stage) for course in courses(ground) for stage in course.stages if not course.is_done(stage)]
        with _bar(sum(course.steps for course, _ in todo), "steps", shown=progress) as bar:
            for course, stage in todo:
                bar.set_description_str(f"{course.name} {stage}/{len(course.order)} {course.domain_of(stage)}")
                remove_leftovers(course.folder)
                before = bar.n
                StageRun(course, stage).run(lambda told, before=before: bar.update(before + told.step - bar.n))  # type: ignore[misc]
    return out


def evaluate(config: CptConfig, out: Path | str, *, progress: bool = True) -> Path:
    """Tune and test all cells of the matrix that are not there yet, and report; returns `out`.

    In `out` appear `records.jsonl`, `table.md` and `report.html`; the cells are kept in `cells`.

    Raises:
        ConfigError: a stage has not been trained, or `out` or its cells were made with other settings or tasks.
    """
    out = Path(out)
    with alone_in(out):
        ground = Ground.prepare(config, out)
        everything = list(courses(ground))
        for course in everything:
            course.check()
            missing = [stage for stage in course.stages if not course.is_done(stage)]
            if missing:
                raise ConfigError(
                    f"{course.name}: stage {missing[0]} has not been trained in {out}: run `cpt train` first"
                )
        for seed in config.seeds:
            ground.check_initial(seed)
        known = _Known(_cells_folder(ground) / RECORDS)
        cells = sum(
            course.wants(i, name) for course in everything for i in (0, *course.stages) for name in course.order
        )
        with _bar(cells, "cells", shown=progress) as bar:
            for course in everything:
                _fill(course, known, bar)
        _write_results(ground, everything, known, out)
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
        if name not in known:
            raise ConfigError(f"no {what} '{name}' in these settings: choose one of {', '.join(known)}")
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


def courses(ground: Ground) -> Iterator[Course]:
    """Every arm through every order with every seed."""
    config = ground.config
    assert config.orders is not None
    for seed in config.seeds:
        for order in config.orders:
            for arm in config.arms:
                yield Course(ground, arm, order, seed)


def _cells_folder(ground: Ground) -> Path:
    """Where cells are kept, if those that are there were tuned and tested as these settings say."""
    folder = ground.out / CELLS
    settings = {"finetune": ground.config.to_json()["finetune"], "tasks": ground.tasks()}
    check_settings(folder, settings, f"set them back, or move {folder} away to measure all cells anew")
    return folder


class _Known:
    """Cells measured before, by what tells them apart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[tuple[Any, ...], list[Record]] = {}
        for record in read_records(path) if path.exists() else []:
            self._put(record)

    def _put(self, record: Record) -> None:
        key = (record.run, record.model, record.seed, record.stage, record.domain)
        self.records.setdefault(key, []).append(record)

    def add(self, records: list[Record]) -> None:
        """Keep the records of a cell, on the disk, too."""
        append_records(self.path, records)
        for record in records:
            self._put(record)

    def of(self, course: Course, stage: int, domain: str) -> list[Record]:
        """The records of a cell; row 0 is that of the initial model, the same for all arms and orders."""
        config = course.ground.config
        key = (f"{config.name}/{course.order_name}", course.arm_name, course.seed, stage, domain)
        return self.records.get(key if stage else (config.name, INITIAL, course.seed, 0, domain), [])


def _fill(course: Course, known: _Known, bar: Any) -> None:
    scorer = CellScorer(course)

    def measure(stage: int, domain: str) -> list[Record]:
        bar.set_description_str(f"{course.name} {stage} on {domain}")
        return cell_records(course, stage, domain, scorer.cell(stage, domain))

    def found(stage: int, domain: str) -> list[Record]:
        bar.update()
        return known.of(course, stage, domain)

    matrix_eval(
        [0, *course.stages],
        course.order,
        measure,
        found=found,
        on_records=known.add,
        wanted=course.wants,
    )


def _write_results(ground: Ground, everything: list[Course], known: _Known, out: Path) -> None:
    records: list[Record] = []
    for course in everything:
        records += read_records(course.folder / RECORDS)
        run = f"{ground.config.name}/{course.order_name}"
        for stage in (0, *course.stages):
            for domain in course.order:
                records += [replace(record, run=run) for record in known.of(course, stage, domain)]
    records = list({json.dumps(asdict(record)): record for record in records}.values())  # row 0 comes with every arm
    records += summary_records(ground.config.name, records)
    write_text(out / RECORDS, "".join(json.dumps(asdict(record)) + "\n" for record in records))
    write_text(out / TABLE_FILE, f"# {ground.config.name}\n\n{matrix_table(records)}")
    write_report([out], out / REPORT_FILE, title=ground.config.name)


def _bar(total: int, unit: str, *, shown: bool) -> tqdm:
    settings = {"mininterval": 0.2 if sys.stderr.isatty() else 30}
    return tqdm(total=total, unit=unit, disable=not shown, **settings)
