"""Trackers get what is logged; records are written whether there are trackers or not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.errors import ConfigError
from longspan.records import read_records
from longspan.train.config import RunConfig
from longspan.train.run import train

Make = Callable[..., RunConfig]


def test_tensorboard_reads_the_very_losses_of_the_records(tmp_path: Path, run_config: Make) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    train(run_config(report_to=["tensorboard"]), out, progress=False)
    (folder,) = {path.parent for path in out.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    shown = [(event.step * 64, event.value) for event in events.Scalars("train/loss")]
    kept = [(record.n, record.value) for record in read_records(out / "records.jsonl") if record.metric == "loss"]
    assert len(kept) == 3
    assert [n for n, _ in shown] == [n for n, _ in kept]
    assert [loss for _, loss in shown] == pytest.approx([loss for _, loss in kept], rel=1e-5)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_one_line_before_any_work(
    name: str, tmp_path: Path, run_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"'report_to' names {name}, which is not installed: pip install {name}"):
        train(run_config(report_to=[name]), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused(run_config: Make) -> None:
    with pytest.raises(ConfigError, match="report_to"):
        run_config(report_to=["mlflow"])


def test_a_run_may_go_on_with_another_tracker() -> None:
    from longspan.train.config import changed_keys

    assert changed_keys({"report_to": []}, {"report_to": ["wandb"]}) == []
