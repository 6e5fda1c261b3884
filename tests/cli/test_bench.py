"""`longspan bench` on sizes that take no time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.bench import attention, limits, steps
from longspan.records import Record, append_records, read_records
from longspan.report.bench import bench_figures, exponent_table, left_out_list, limit_table, ratio_table
from longspan.train.sizes import Size

Done = Callable[..., str]
TINY = Size(layers=1, width=16, heads=1, intermediate=16, tied=True)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = steps.Shape(TINY, 64, {"train step": (16, 32), "prefill": (16, 32)}, arms=("transformers", "coca"))
    monkeypatch.setitem(steps.SHAPES, "cpu", (shape,))
    monkeypatch.setitem(attention.HEADS, "cpu", 1)
    monkeypatch.setitem(limits.MATRIX, "cpu", 32)
    monkeypatch.setitem(limits.BUFFER, "cpu", 1 << 12)
    for slow in ("flex", "pope"):  # one is compiled
        monkeypatch.delitem(attention.WAYS, slow)


@pytest.mark.usefixtures("tiny")
def test_suites_give_ratios_costs_shares_and_exponents_and_keep_other_suites(done: Done, tmp_path: Path) -> None:
    out = tmp_path / "records.jsonl"
    old = {"method": "m", "model": "m", "task": "t", "metric": "ratio", "value": 1.0}
    append_records(out, [Record(run=f"benchmarks/{name}", **old) for name in ("start", "train")])
    said = done(
        "bench", "--suite", "train", "--suite", "attention", "--lengths", "16,32", "--seconds", "0", "--out", out,
        "--plots", tmp_path / "plots", "--json", tmp_path / "bench.json", "--device", "cpu", "--quiet",
    )  # fmt: skip
    records = read_records(out)
    assert [record.run for record in records if record.method == "m"] == ["benchmarks/start"]
    measured = {(r.run, r.method, r.metric, r.length) for r in records}
    for length in (16, 32):
        assert ("benchmarks/train", "coca / transformers", "ratio", length) in measured
        assert ("benchmarks/train", "limit", "seconds", length) in measured
        assert ("benchmarks/attention", "released coca / coca", "memory ratio", length) in measured
        assert ("benchmarks/attention", "coca", "share of limit", length) in measured
    assert ("benchmarks/train", "coca", "exponent", 32) in measured
    left_out = [r for r in records if r.metric == "left out"]
    assert {r.method for r in left_out} == {"PoPE-pytorch"}
    assert all(r.note for r in left_out)
    assert "coca / transformers" in said
    drawn = {path.name for path in (tmp_path / "plots").glob("*.svg")}
    assert {"attention-seconds.svg", "train-step-llama-1-layer-of-16-bytes.svg"} <= drawn
    rows = json.loads((tmp_path / "bench.json").read_text())["records"]
    assert len(rows) == len(records) - 1


def cost(method: str, metric: str, length: int, value: float | None, note: str | None = None) -> Record:
    return Record(run="r", method=method, model="m", task="step", metric=metric, value=value, length=length, note=note)


def test_tables_and_charts_say_what_the_records_hold() -> None:
    records = [cost(name, "seconds", n, n / 1000) for name in ("a", "limit") for n in (512, 1024)]
    records += [
        cost("a", "exponent", 1024, 1.0),
        cost("a / b", "ratio", 512, 0.5),
        cost("a", "share of limit", 512, 0.25),
    ]
    records += [cost("c", "left out", 512, None, "no compiler")]
    assert ratio_table(records).splitlines()[2] == "| step | a / b | 0.50 |"
    assert limit_table(records).splitlines()[2] == "| step | a | 0.25 |"
    assert exponent_table(records).splitlines()[2] == "| step | a | 1.00 | – |"
    assert left_out_list(records) == "- step, c, from 512 on: no compiler"
    (figure,) = bench_figures(records)
    assert [curve.label for curve in figure.curves] == ["a: n^1.0", "limit"]
    assert (figure.x.kind, figure.y.kind) == ("log", "log")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "speed"], "unknown suite 'speed': choose from attention, train"),
        (["--suite", "start", "--lengths", "512"], "--lengths has no effect on the suite 'start'"),
        (["--suite", "loop", "--dtype", "bfloat16"], "--dtype has no effect on the suite 'loop'"),
        (["--lengths", "32q"], "'32q' is not a length"),
        (["--seconds", "-1"], "'--seconds'"),
        (["--out", "."], "is a folder: name the file"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(refused: Done, arguments: list[str], said: str) -> None:
    assert said in refused("bench", *arguments)
