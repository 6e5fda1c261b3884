"""The checks of the evaluators, of two tasks at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from longspan.evaluate import checks
from longspan.records import read_records


def test_records_say_what_the_oracle_the_blind_and_the_windowed_model_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "_VOCABULARY", 300)
    checks.main(["copying", "passkey", "--lengths", "256", "--out", str(tmp_path)])
    records = read_records(tmp_path)
    found = [(record.task, record.model.split()[0], record.metric, record.value, record.n) for record in records]
    assert found == [
        (task, who, metric, value, 5)
        for task in ("copying", "passkey")
        for who, metric, value in (
            ("oracle", "accuracy", 1.0),
            ("blind", "accuracy", 0.0),
            ("window", "agreement", 1.0),
        )
    ]
    assert len(capsys.readouterr().out.splitlines()) == len(records)


def test_a_task_or_a_length_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for told, says in ((["perplexity"], "unknown task 'perplexity'"), (["--lengths", "many"], "many")):
        with pytest.raises(SystemExit, match="2"):
            checks.main([*told, "--out", str(tmp_path)])
        assert says in capsys.readouterr().err
