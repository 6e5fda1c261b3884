"""What the matrices of a run say: the six means for each arm, order and seed, and over all of them with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from longspan.intervals import normal_mean
from longspan.matrix import METRICS, TASK, stage_matrices
from longspan.records import Record


def summary_records(name: str, records: Sequence[Record]) -> list[Record]:
    """Records of the six means: of each arm, order and seed, and of each arm over all orders and seeds.

    The latter have no seed and carry the interval mean +- 1.96 s / sqrt(n) over the n pairs of order and seed.
    """
    found: list[Record] = []
    by_arm: dict[str, dict[str, list[float]]] = {}
    for (run, arm, seed), matrix in stage_matrices(records).items():
        for metric, value in matrix.summary().items():
            if value is not None:
                found.append(_record(run, arm, metric, value, seed=seed))
                by_arm.setdefault(arm, {}).setdefault(metric, []).append(value)
    for arm, metrics in by_arm.items():
        for metric in METRICS:
            if values := metrics.get(metric):
                low, high = normal_mean(values)
                found.append(_record(name, arm, metric, fmean(values), low=low, high=high, n=len(values)))
    return found


def _record(
    run: str,
    arm: str,
    metric: str,
    value: float,
    *,
    seed: int | None = None,
    low: float | None = None,
    high: float | None = None,
    n: int | None = None,
) -> Record:
    return Record(
        run=run, method="none", model=arm, task=TASK, metric=metric, value=value, seed=seed, low=low, high=high, n=n
    )
