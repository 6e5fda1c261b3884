"""Imports run downward only, there is no cycle, and the light modules stay light."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "longspan"
FLOORS = (
    {"errors"},
    {"lengths", "files", "settings", "processes"},
    {"jsonl", "intervals", "rotation", "regions"},
    {"records", "scores"},
    {"window", "matrix"},
    {"slots"},
    {"equation"},
    {"methods"},
    {"registry"},
    {"kernels", "reference"},
    {"surgery", "data"},
    {"models"},
    {"train", "evaluate", "doctor", "report"},
    {"study", "search", "export", "serve", "bench"},
    {"systems"},
    {"planner"},
    {"cli"},
)
"""Rooms from the ground up: each may use those below it and itself."""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
DOORS = {"__init__", "__main__", "_registration"}
"""Where outsiders come in: these look names up in any room."""


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("longspan.") and name.count(".")}
    return found & set(FLOOR)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_uses_only_rooms_below_its_own(path: Path) -> None:
    room = room_of(path)
    if room in DOORS:
        return
    assert room in FLOOR, f"{room} has no floor: add it to FLOORS and to docs/architecture.md"
    above = {other for other in imported_rooms(path) if other != room and FLOOR[other] >= FLOOR[room]}
    assert not above, f"{path.name} uses {sorted(above)}, which are not below {room}"


def test_reports_know_records_and_not_models() -> None:
    for path in (SOURCE / "report").glob("*.py"):
        assert not imported_rooms(path) & {"equation", "methods", "registry", "surgery", "models"}
        assert "import torch" not in path.read_text(encoding="utf-8")
