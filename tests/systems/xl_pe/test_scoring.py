"""Scores of a study against sacrebleu itself."""

from __future__ import annotations

from typing import Any

import pytest

from longspan.systems.xl_pe.config import StudySettings
from longspan.systems.xl_pe.scoring import _scores, score_table

SPLIT = {"source": "a", "target": "b"}


def test_equal_translations_do_not_differ_and_scores_are_those_of_sacrebleu() -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    arms: dict[str, Any] = {name: {} for name in ("plain", "same", "better")}
    values = {"name": "x", "train": SPLIT, "dev": SPLIT, "test": SPLIT, "arms": arms}
    references = [f"the {word} ship came home from sea" for word in ("old", "new", "red", "big", "far", "low")]
    poor = [line.replace("came home", "goes") for line in references]
    found = {"plain": poor, "same": list(poor), "better": references}
    records = _scores(StudySettings.parse(values, "here"), 3, found, references, {"bleu": metrics.BLEU()})
    numbers = {(record.model, record.metric): record.value for record in records}
    assert numbers["plain", "bleu"] == pytest.approx(metrics.BLEU().corpus_score(poor, [references]).score)
    assert numbers["better", "bleu"] == pytest.approx(100)
    assert numbers["same", "bleu_p"] == 1.0
    assert numbers["better", "bleu_p"] < 0.01
    assert ("plain", "bleu_p") not in numbers
    rows = score_table(records).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| plain", "| same", "| better"]
