from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.records import Record, append_records
from longspan.report import write_report
from longspan.report.cost import cost_table, short_context_table
from longspan.report.results import Results
from longspan.report.table import markdown_of

Make = Callable[..., Record]


def trained(make_record: Make, arm: str, seed: int, **costs: float) -> list[Record]:
    """What training leaves: a loss, and the costs named."""
    place = {"model": arm, "seed": seed, "task": "train", "length": 256, "depth": 1.0}
    names = {"loss": 3.0, **{name.replace("_", " "): value for name, value in costs.items()}}
    return [make_record(**place, metric=name, value=value) for name, value in names.items()]


def test_time_and_memory_are_means_over_seeds(make_record: Make) -> None:
    records = [
        *trained(make_record, "pose", 0, seconds=100.0, seconds_per_step=0.5, bytes=2.0**30),
        *trained(make_record, "pose", 1, seconds=120.0, seconds_per_step=0.6, bytes=2.0**30 * 2),
        *trained(make_record, "full", 0, seconds=300.0),
    ]
    table = cost_table(Results(records))
    assert table is not None
    assert table.columns == ("window", "seconds a step", "seconds in all", "peak memory")
    assert list(table.rows.values()) == [
        ["256", "0.55 (0.5–0.6)", "110 (100–120)", "1.5 GiB (1 GiB–2 GiB)"],
        ["256", "–", "300", "–"],
    ]
    assert "| pose | plain | 256 | 0.55 (0.5–0.6) |" in markdown_of(table)


def test_there_is_no_cost_where_nothing_was_trained(make_record: Make) -> None:
    assert cost_table(Results([make_record(length=256)])) is None


@pytest.fixture
def tuned(make_record: Make) -> list[Record]:
    """An untrained model of two seeds, measured under an extension, too, and what was made of it."""
    records = []
    for seed, before, after in ((0, 20.0, 21.0), (1, 40.0, 40.4)):
        records += trained(make_record, "pose", seed)
        records.append(make_record(model="none", seed=seed, length=256, value=before))
        records.append(make_record(model="none", method="pi", seed=seed, length=256, value=99.0))
        records.append(make_record(model="pose", method="yarn+pose", seed=seed, length=256, value=after))
        records.append(make_record(model="pose", method="yarn+pose", seed=seed, length=512, value=1.0))
    return records


def test_short_context_is_compared_seed_by_seed_with_the_untrained_model(tuned: list[Record]) -> None:
    table = short_context_table(Results(tuned))
    assert table is not None
    assert [line.arm for line in table.rows] == ["pose"]
    assert list(table.rows.values()) == [["30.70 (21.00–40.40)", "+3.0 % (+1.0–+5.0)"]]  # 5 % and 1 %
    assert "untrained 'none'" in table.note


def test_without_an_untrained_model_nothing_is_said_of_short_context(tuned: list[Record], make_record: Make) -> None:
    scratch = [*tuned, *trained(make_record, "none", 0)]
    assert short_context_table(Results(scratch)) is None


def test_the_page_shows_what_training_cost(tuned: list[Record], tmp_path: Path) -> None:
    append_records(tmp_path / "records.jsonl", tuned)
    page = write_report([tmp_path], tmp_path).read_text(encoding="utf-8")
    assert "<h2>Short context</h2>" in page
    assert "+3.0 % (+1.0–+5.0)" in page
