from __future__ import annotations

import pytest

from surgery_methods import METHODS, VARIED


@pytest.fixture(params=[pytest.param(m, marks=pytest.mark.slow if m in VARIED else ()) for m in METHODS])
def methods(request: pytest.FixtureRequest) -> str:
    """Every method in turn, as the command line spells it; those that act as another here does are slow."""
    return request.param
