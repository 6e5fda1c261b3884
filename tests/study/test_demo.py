"""The demo's input is the library's own source, split by file, and its settings can be run."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest

from longspan.records import read_records
from longspan.study import demo
from longspan.study.config import StudyConfig
from longspan.study.demo import copy_library, demo_study


def test_the_library_is_split_by_file(tmp_path: Path) -> None:
    copy_library(tmp_path / "text")
    parts = {
        name: {p.relative_to(tmp_path / "text" / name) for p in (tmp_path / "text" / name).rglob("*.py")}
        for name in ("train", "held-out")
    }
    assert not parts["train"] & parts["held-out"]
    library = Path(sysconfig.get_path("stdlib"))
    assert all((library / path).is_file() for path in parts["train"] | parts["held-out"])
    assert len(parts["held-out"]) >= 6
    assert min((library / path).stat().st_size for path in parts["held-out"]) > 32 * 1024
    assert sum((library / path).stat().st_size for path in parts["train"]) > 3e6


def test_the_demo_compares_rope_and_coca_out_to_32_times_the_window(tmp_path: Path) -> None:
    study = demo_study(tmp_path)
    study.check_runs("demo")
    assert isinstance(study, StudyConfig)
    train_length = study.run_config("rope").train_length
    assert study.lengths[-1] == 32 * train_length
    assert {arm.methods for arm in study.arms.values()} == {"rope", "coca"}
    assert [name.split("(")[0] for name in study.extensions] == ["none", "pi", "ntk", "dynamic_ntk", "yarn"]


def test_seed_and_device_reach_the_runs(tmp_path: Path) -> None:
    study = demo_study(tmp_path, seed=3, device="cpu")
    assert study.seeds == [3]
    assert study.run_config("coca").device == "cpu"


def test_the_demo_runs_to_its_report_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """At toy size: a library of ten files, the tiny study's model and lengths, the demo's arms."""
    library = tmp_path / "library"
    for number in range(10):
        (library / f"module{number}").mkdir(parents=True)
        lines = "".join(f"def function_{number}_{line}(argument):\n    return argument\n" for line in range(900))
        (library / f"module{number}" / "code.py").write_text(lines)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))

    def toy(out: Path, *, seed: int, device: str) -> StudyConfig:
        small = demo_study(out, seed=seed, device=device).to_json()
        small["run"] |= {"model": {"size": "tiny"}, "train_length": 64, "steps": 2, "batch_tokens": 128}
        small["run"]["data"] |= {"vocab_size": 300, "mixture": {}}
        del small["run"]["tokens"]
        small |= {"extensions": ["none", "yarn"], "lengths": [64, 128], "arms": values["arms"]}
        small["evaluate"] |= {"perplexity": {"documents": 2, "max_targets": 32}, "passkey": None}
        return StudyConfig.parse(small, "demo")

    monkeypatch.setattr(demo, "demo_study", toy)
    report = demo.run(tmp_path / "out", jobs=1, seed=1, device="cpu")
    assert "<html" in report.read_text()
    printed = capsys.readouterr().out
    assert "perplexity (lower is better)" in printed
    assert f"Report: {report}" in printed
    assert {record.seed for record in read_records(tmp_path / "out")} == {1}
    made = [*(tmp_path / "out").glob("runs/*/checkpoint/*"), *(tmp_path / "out").glob("runs/*/cells/*")]
    made += (tmp_path / "out" / "text").rglob("*.py")
    times = {path: path.stat().st_mtime_ns for path in made}
    assert demo.run(tmp_path / "out", jobs=1, quiet=True, seed=1, device="cpu") == report
    assert {path: path.stat().st_mtime_ns for path in made} == times
    assert capsys.readouterr().out == ""
