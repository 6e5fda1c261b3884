"""The demo's input is the library's own source, split by file, and its settings can be run."""

from __future__ import annotations

import sysconfig
from pathlib import Path

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
