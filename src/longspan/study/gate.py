"""The gate: a model that cannot retrieve inside its training window says nothing about retrieval beyond it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from longspan.records import Record
from longspan.study.config import StudyConfig

TASK = "gate"


def gate_records(study: StudyConfig, records: Iterable[Record]) -> list[Record]:
    """Passkey accuracy inside the training window of every plain arm, or of all arms if none is, as task `gate`."""
    passkey = study.evaluate.passkey
    if passkey is None or passkey.gate is None:
        return []
    plain = [name for name, arm in study.arms.items() if arm.methods == "rope"] or list(study.arms)
    methods = {name: study.methods_in_force(name) for name in plain}
    return [
        dataclasses.replace(record, task=TASK)
        for record in records
        if record.task == "passkey"
        and record.metric == "accuracy"
        and record.depth is None
        and record.length == record.train_length
        and methods.get(record.model) == record.method
    ]


def gate_line(study: StudyConfig, gates: Iterable[Record]) -> str | None:
    """One line: what was needed, what was reached by each seed, and what follows; None if no gate was asked for."""
    passkey = study.evaluate.passkey
    if passkey is None or passkey.gate is None:
        return None
    found = list(gates)
    if not found:
        return f"Gate: passkey inside the training window at least {passkey.gate:g}: not measured."
    reached = ", ".join(f"{gate.model} seed {gate.seed} {gate.value or 0:.2f}" for gate in found)
    met = all((gate.value or 0) >= passkey.gate for gate in found)
    verdict = "met" if met else "NOT met, so nothing can be concluded from retrieval beyond the window"
    return (
        f"Gate: passkey inside the training window of {found[0].train_length} tokens at least {passkey.gate:g}; "
        f"reached {reached}: {verdict}."
    )
