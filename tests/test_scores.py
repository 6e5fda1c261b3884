from __future__ import annotations

from pathlib import Path

import pytest

from longspan.errors import DataError
from longspan.scores import SCORES_FILE, Score, append_scores, read_scores


def score(**changes: object) -> Score:
    columns = {"run": "r", "method": "rope", "model": "m", "task": "perplexity", "sample": "document 0 ab"}
    return Score(**{**columns, "values": {"nll": 2.5}, **changes})  # type: ignore[arg-type]


def test_scores_come_back_as_they_were_added(tmp_path: Path) -> None:
    first, second = score(weight=512.0, length=256), score(values={"accuracy": 1.0}, depth=0.5, seed=3)
    append_scores(tmp_path / SCORES_FILE, [first])
    append_scores(tmp_path / SCORES_FILE, [second])
    assert read_scores(tmp_path) == [first, second]


def test_a_folder_without_scores_has_none(tmp_path: Path) -> None:
    assert read_scores(tmp_path) == []


def test_a_line_that_is_no_score_is_named(tmp_path: Path) -> None:
    append_scores(tmp_path / SCORES_FILE, [score()])
    with (tmp_path / SCORES_FILE).open("a") as file:
        file.write('{"run": "r"}\n')
    with pytest.raises(DataError, match="line 2: not a score"):
        read_scores(tmp_path)
