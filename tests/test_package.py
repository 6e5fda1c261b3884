from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "numpy", "pydantic")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code", ["import longspan", "import longspan.cli", "from longspan.cli import main; main(['-h'])"]
)
def test_importing_and_asking_for_help_loads_nothing_heavy(code: str) -> None:
    loaded = python(f"{code}; import sys; print('loaded', [n for n in {HEAVY} if n in sys.modules])")
    assert loaded.endswith("loaded []")


def test_help_answers_at_once() -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "longspan", "--help"], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
    assert "extend" in done.stdout
    assert min(times) < 0.3


def test_every_name_that_the_package_lists_is_there() -> None:
    import longspan

    for name in dir(longspan):
        assert getattr(longspan, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        longspan.no_such_name  # noqa: B018


def test_version_is_the_one_of_the_package() -> None:
    import longspan

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert longspan.__version__ == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_is_pinned_to_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in lines}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    named = {re.split(r"[<>=\[]", name)[0] for name in wanted}
    assert named - {"triton"} <= pinned  # of which torch for CUDA wants a version of its own
    assert "torch==2.13.0" in lines
