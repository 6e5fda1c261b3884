"""Ranks of several runs as records and as one table, with intervals over users and differences to the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from longspan.intervals import bootstrap, wilson
from longspan.records import Record
from longspan.systems.discrec.evaluate import Measured, Protocol
from longspan.systems.discrec.metrics import METRICS


def result_records(runs: Sequence[Measured], protocol: Protocol) -> list[Record]:
    """Each metric of each run, of each arm over its seeds, and of each arm less the baseline (users are the units)."""
    records = []
    for metric in METRICS:
        for run in runs:
            records.append(_record(run, protocol, run.arm, metric, _values([run], metric), run.seed))
        arms = {run.arm: [other for other in runs if other.arm == run.arm] for run in runs}
        first = _baseline(runs)
        for arm, of_arm in arms.items():
            values = _values(of_arm, metric)
            records.append(_record(of_arm[0], protocol, arm, metric, values, None))
            if arm != first:
                difference = values - _values(arms[first], metric)
                records.append(_record(of_arm[0], protocol, f"{arm} - {first}", metric, difference, None))
    return records


def results_table(runs: Sequence[Measured], records: Sequence[Record]) -> str:
    """The arms in Markdown: means over seeds with their 95 % intervals over users, and differences to the baseline."""
    summary = {(record.method, record.metric): record for record in records if record.seed is None}
    seeds = {run.arm: sum(other.arm == run.arm for other in runs) for run in runs}
    parameters = {run.arm: run.parameters for run in runs}
    first = _baseline(runs)
    note = (
        f"{len(runs[0].ranks):,} users; in parentheses 95 % intervals over users, seeds averaged before; differences to"
        f" {first} are paired by user. Collisions: {runs[0].collisions:.2%} of the items; a hit of one counts for all."
    )
    heading = f"| arm | parameters | seeds | {' | '.join(METRICS)} |"
    lines = [note, "", heading, "| :-- | --: | --: |" + " --: |" * len(METRICS)]
    rows = dict.fromkeys(method for method, _ in summary)
    for arm in sorted(rows, key=lambda arm: (arm not in parameters, arm != first)):
        counts = f"{parameters[arm]:,} | {seeds[arm]}" if arm in parameters else " | "
        cells = " | ".join(_cell(summary[arm, metric], signed=arm not in parameters) for metric in METRICS)
        lines.append(f"| {arm} | {counts} | {cells} |")
    return "\n".join(lines) + "\n"


def _baseline(runs: Sequence[Measured]) -> str:
    return next((run.arm for run in runs if run.baseline), runs[0].arm)


def _values(runs: Sequence[Measured], metric: str) -> Float64[np.ndarray, " users"]:
    """The metric of each user, the mean over the seeds."""
    values: Float64[np.ndarray, " users"] = np.mean([METRICS[metric](run.ranks) for run in runs], axis=0)
    return values


def _record(
    run: Measured, protocol: Protocol, method: str, metric: str, values: Float64[np.ndarray, " users"], seed: int | None
) -> Record:
    # shares of users have an interval even where nobody, or everybody, is hit
    share = seed is not None and bool(np.isin(values, (0, 1)).all())
    low, high = wilson(int(values.sum()), len(values)) if share else bootstrap(values)
    return Record(
        run=run.study,
        method=method,
        model=method if seed is None else f"{run.arm}-{seed}",
        task=f"recommendation-{protocol.part}",
        metric=metric,
        value=float(values.mean()),
        low=low,
        high=high,
        n=len(values),
        seed=seed,
    )


def _cell(record: Record, *, signed: bool) -> str:
    form = "+.4f" if signed else ".4f"
    if record.low is None or record.high is None:
        return f"{record.value:{form}}"
    return f"{record.value:{form}} ({record.low:{form}} to {record.high:{form}})"
