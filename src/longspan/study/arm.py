"""One arm with one seed, from the first training step to its last cell."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan.files import write_json
from longspan.jsonl import write_rows
from longspan.lengths import format_length
from longspan.scores import SCORES_FILE
from longspan.study.cells import Cell, plan_cells
from longspan.study.config import StudyConfig
from longspan.study.inputs import data_folder, open_held_out, tokens_per_epoch
from longspan.study.progress import Step

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One training run of a study and where it lives."""

    study: StudyConfig
    out: Path
    """Folder of the study."""
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the folder, and in messages."""
        return f"{self.arm}-{self.seed}"

    @property
    def folder(self) -> Path:
        """The training run, its checkpoint, and the finished cells."""
        return self.out / "runs" / self.name

    @property
    def measured_file(self) -> Path:
        """The numbers of all its cells, written when the last is there."""
        return self.folder / "measured.jsonl"

    @property
    def scores_file(self) -> Path:
        """What each document and prompt of its cells scored, written with the numbers."""
        return self.folder / SCORES_FILE

    @property
    def measuring_file(self) -> Path:
        """What the measuring rests on, as `Measurer.settings` says it."""
        return self.folder / "measuring.json"

    @property
    def cells(self) -> list[Cell]:
        """Cells that are measured for it, none of them twice."""
        return [cell for cell in plan_cells(self.study, self.arm) if cell.is_measured]

    @property
    def training_work(self) -> float:
        """Cost of the training in forward tokens; the way back costs twice the way forth."""
        run = self.study.run_config(self.arm, self.seed)
        if run.epochs is None:
            tokens = float(run.total_steps * run.batch_tokens)
        else:
            tokens = run.epochs * tokens_per_epoch(self.out)
        return 3.0 * tokens * (1 + run.train_length / 2048)

    @property
    def work(self) -> float:
        """Cost of training and measuring, in forward tokens."""
        return self.training_work + sum(cell.work for cell in self.cells)


def arm_runs(study: StudyConfig, out: Path) -> list[ArmRun]:
    """Every arm with every seed, seed after seed."""
    return [ArmRun(study, out, arm, seed) for seed in study.seeds for arm in study.arms]


def run_arm(run: ArmRun, on_step: Callable[[Step], object], *, threads: int | None = None) -> None:
    """Train `run` and measure all of its cells, going on where an earlier call stopped.

    Args:
        on_step: called with how far it is, from time to time.
        threads: processor threads; None leaves torch's choice.

    Raises:
        LongspanError: training or measuring cannot go on.
        KeyboardInterrupt: asked to stop; state and finished cells are kept.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    from longspan.study.measure import Measurer
    from longspan.train.run import train

    disable_progress_bar()  # of loading weights; it would break the study's own
    more: dict[str, Any] = {"data.cache": str(data_folder(run.out))}
    if threads is not None:
        torch.set_num_threads(threads)
        more["threads"] = threads
    config = run.study.run_config(run.arm, run.seed, **more)
    with _following(run, on_step):
        checkpoint = train(config, run.folder, progress=False)
    measurer = Measurer(run.study, run.arm, run.seed, checkpoint, open_held_out(run.out), run.folder / "cells")
    write_json(run.measuring_file, measurer.settings())
    done = [cell for cell in run.cells if measurer.is_done(cell)]
    work, todo = run.training_work + sum(cell.work for cell in done), [cell for cell in run.cells if cell not in done]
    for place, cell in enumerate(todo, start=len(done)):
        note = f"{cell.task} at {format_length(cell.length)}, {cell.extension}"
        on_step(Step(work=work, cells=place, note=note))
        measurer.measure(cell)
        work += cell.work
    cells = plan_cells(run.study, run.arm)
    write_rows(run.scores_file, [score for cell in cells for score in measurer.scores(cell)])
    write_rows(run.measured_file, [record for cell in cells for record in measurer.records(cell)])
    on_step(Step(work=work, cells=len(run.cells), note="done"))


@contextlib.contextmanager
def _following(run: ArmRun, on_step: Callable[[Step], object]) -> Iterator[None]:
    """Report how far the training inside is, as its records tell."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(_POLL_SECONDS):
            share = _share_trained(run)
            on_step(Step(work=share * run.training_work, cells=0, note=f"training {share:.0%}"))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _share_trained(run: ArmRun) -> float:
    path = run.folder / "records.jsonl"
    if not path.is_file():
        return 0.0
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [json.loads(line) for line in lines[-2:] if line.endswith("\n")]
    return max((row["depth"] or 0.0 for row in whole if row["task"] == "train"), default=0.0)
