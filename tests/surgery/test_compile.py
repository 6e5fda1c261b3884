"""torch.compile takes a patched decoder layer whole: the copied forward is found with its globals, without a break."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tolerances import LOGITS


@pytest.mark.parametrize("methods", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_layers_are_one_graph(methods: str) -> None:
    script = Path(__file__).parents[1] / "compiled_layers.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(script), methods]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    distances = json.loads(done.stdout)
    assert len(distances) > (15 if methods == "all" else 5)
    assert {name for name, distance in distances.items() if not distance < LOGITS} == set()
