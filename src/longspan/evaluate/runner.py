"""The one runner of tasks made of prompts: cell by cell into records, with intervals; resumable."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from longspan.errors import DataError
from longspan.evaluate.answering import answer_all, shares
from longspan.evaluate.forward import rows_per_batch
from longspan.evaluate.frame import Frame
from longspan.evaluate.journal import Journal
from longspan.evaluate.task import Bench, Outcome, Place, SampleTask
from longspan.intervals import Z_95, normal_mean, wilson
from longspan.lengths import format_length
from longspan.records import Record
from longspan.scores import Score


def depth_grid(depths: int | Sequence[float]) -> list[float]:
    """Depths from 0 to 1: `depths` equal steps (1: the middle), or the depths given.

    Raises:
        DataError: none, or one outside 0 .. 1.
    """
    if isinstance(depths, int):
        grid = [0.5] if depths == 1 else [step / (depths - 1) for step in range(depths)]
    else:
        grid = [float(depth) for depth in depths]
    if not grid or not all(0 <= depth <= 1 for depth in grid):
        raise DataError(f"depths {depths} cannot be used: give a number of steps, or depths between 0 and 1")
    return grid


def frame_of(bench: Bench, name: str) -> Frame:
    """Makes the prompts of the task `name`."""
    return Frame(bench.tokenizer, name, chat=bench.chat, haystack=bench.haystack)


def _cells(task: SampleTask, bench: Bench) -> tuple[list[float | None], int]:
    """Depths of the cells of a length, and samples of a cell."""
    if bench.trials < 1:
        raise DataError(f"trials is {bench.trials}: it must be at least 1")
    grid = depth_grid(bench.depths)
    return (list(grid), bench.trials) if task.has_depth else ([None], bench.trials * len(grid))


def places_of(task: SampleTask, bench: Bench, length: int) -> list[Place]:
    """Every prompt of a length, in the order of the records.

    Raises:
        DataError: trials or depths that cannot be used.
    """
    grid, trials = _cells(task, bench)
    return [Place(bench.seed, length, depth, trial) for depth in grid for trial in range(trials)]


def check_samples(task: SampleTask, bench: Bench, name: str) -> None:
    """Make sure that prompts of the shortest length can be made.

    Raises:
        LengthError: it is too short for the task.
        DataError: settings that cannot be used.
    """
    frame = frame_of(bench, name)
    for place in places_of(task, bench, min(bench.lengths)):
        task.sample(frame, place)


def outcomes(task: SampleTask, bench: Bench, frame: Frame, places: Sequence[Place]) -> list[Outcome]:
    """What the model makes of the prompts at `places`, which are of one length; processes share them."""
    # trial by trial, since the prompts of a trial may begin alike, and what they share is read once in a process
    order = sorted(places, key=lambda place: place.trial)
    found = bench.processes.share(order, functools.partial(_own_outcomes, task, bench, frame))
    by_place = {outcome.place: outcome for outcome in found}
    return [by_place[place] for place in places]


def _own_outcomes(task: SampleTask, bench: Bench, frame: Frame, places: Sequence[Place]) -> list[Outcome]:
    samples = [task.sample(frame, place) for place in places]
    answers = answer_all(
        bench.model,
        bench.tokenizer,
        task,
        samples,
        decoding=bench.decoding,
        batch_size=bench.batch_size,
        reuse=bench.reuse,
    )
    return [
        Outcome(place=place, sample=sample, score=answer.score, nll=answer.nll, answer=answer.text)
        for place, sample, answer in zip(places, samples, answers, strict=True)
    ]


def measure_samples(task: SampleTask, bench: Bench, name: str) -> list[Record]:
    """Score and answer NLL of each cell, and of each length over all depths.

    Returns:
        Task `name`: for each (length, depth) a `task.metric` (Wilson interval) and an `nll` (mean +- 1.96 standard
        errors), n = samples; and for each length the same over all depths, with depth None.

    Raises:
        LengthError, DataError: as `check_samples`.
    """
    check_samples(task, bench, name)
    journal = Journal(bench.model, name, **{"seed": bench.seed, **bench.columns})
    grid, trials = _cells(task, bench)
    frame = frame_of(bench, name)
    metrics = (task.metric, "nll")
    measured: dict[tuple[int, float | None], list[Outcome]] = {}

    def measure(length: int, depth: float | None, group: Sequence[float | None]) -> list[Record]:
        if (length, depth) not in measured:  # the first of its group that is not found
            missing = [other for other in dict.fromkeys(group) if not journal.found(metrics, length, other)]
            places = [Place(bench.seed, length, other, trial) for other in missing for trial in range(trials)]
            for outcome in outcomes(task, bench, frame, places):
                measured.setdefault((length, outcome.place.depth), []).append(outcome)
        found = measured.pop((length, depth))
        if bench.on_outcomes is not None:
            bench.on_outcomes(name, found)
        if bench.on_scores is not None:
            bench.on_scores([_score(journal, task, outcome) for outcome in found])
        return cell_records(journal, task.metric, found)

    with tqdm(total=len(bench.lengths) * len(grid), desc=name, unit="cell", disable=not bench.progress) as bar:
        for length in bench.lengths:
            bar.set_description(f"{name} {format_length(length)}")
            cells = []
            # short prompts of several depths fill one batch; those that share a beginning are read in turn
            rows = rows_per_batch(bench.model, length, bench.batch_size) * bench.processes.count
            together = max(1, rows // trials)
            if shares(bench.model, length, bench.batch_size, bench.reuse):
                together = len(grid)
            for start in range(0, len(grid), together):
                group = grid[start : start + together]
                for depth in group:
                    cells.append(journal.cell(metrics, length, depth, functools.partial(measure, length, depth, group)))
                    bar.update()
            if task.has_depth:
                journal.cell(metrics, length, None, functools.partial(_whole, journal, task, length, cells))
    return journal.records


def _score(journal: Journal, task: SampleTask, outcome: Outcome) -> Score:
    place = outcome.place
    sample = f"trial {place.trial} {outcome.sample.fingerprint}"
    return journal.score(
        sample, {task.metric: outcome.score, "nll": outcome.nll}, length=place.length, depth=place.depth
    )


def cell_records(journal: Journal, metric: str, found: Sequence[Outcome]) -> list[Record]:
    """The score, as `metric`, and the answer NLL of the samples of one place."""
    distances = [outcome.sample.distance for outcome in found if outcome.sample.distance is not None]
    shared: dict[str, Any] = {
        "length": found[0].place.length,
        "depth": found[0].place.depth,
        "n": len(found),
        "distance": round(statistics.median(distances)) if distances else None,
    }
    scores, nll = [outcome.score for outcome in found], [outcome.nll for outcome in found]
    low, high = wilson(sum(scores), len(scores))
    nll_low, nll_high = normal_mean(nll)
    return [
        journal.record(metric, sum(scores) / len(scores), low=low, high=high, **shared),
        journal.record("nll", sum(nll) / len(nll), low=nll_low, high=nll_high, **shared),
    ]


def _whole(journal: Journal, task: SampleTask, length: int, cells: Sequence[list[Record]]) -> list[Record]:
    """Records of one length over all depths, from those of its cells, so that found cells need no second measuring."""
    shared: dict[str, Any] = {"length": length, "depth": None}
    n = sum(score.n or 0 for score, _ in cells)
    right = round(sum((score.value or 0) * (score.n or 0) for score, _ in cells), 6)  # counts, but for rounding
    low, high = wilson(right, n)
    whole = journal.record(task.metric, right / n, low=low, high=high, n=n, **shared)
    return [whole, _pooled_nll(journal, [nll for _, nll in cells], n, shared)]


def _pooled_nll(journal: Journal, cells: Sequence[Record], n: int, shared: dict[str, Any]) -> Record:
    """Mean over all samples; its standard error is that of a stratified sample, one stratum a depth."""
    mean = sum(float("nan" if cell.value is None else cell.value) * (cell.n or 0) for cell in cells) / n
    if any(cell.low is None or cell.high is None for cell in cells):
        return journal.record("nll", mean, n=n, **shared)
    errors = [((cell.high or 0) - (cell.low or 0)) / (2 * Z_95) * (cell.n or 0) / n for cell in cells]
    half = Z_95 * float(np.linalg.norm(errors))
    return journal.record("nll", mean, low=mean - half, high=mean + half, n=n, **shared)


def effective_length(records: Iterable[Record], task: str, *, threshold: float, metric: str = "accuracy") -> int | None:
    """Longest length at which, as at each shorter one measured, the lower bound of the score is over `threshold`.

    Args:
        records: those of one arm and seed; other tasks and metrics, and single depths, are passed over.

    Returns:
        The length in tokens; None if the shortest fails already, or nothing was measured.
    """
    bounds = {
        record.length: record.low
        for record in records
        if (record.task, record.metric, record.depth) == (task, metric, None) and record.length is not None
    }
    reached = None
    for length, low in sorted(bounds.items()):
        if low is None or low <= threshold:
            break
        reached = length
    return reached
