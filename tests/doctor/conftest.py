from __future__ import annotations

import pytest

from surgery_methods import METHODS


@pytest.fixture(params=METHODS)
def methods(request: pytest.FixtureRequest) -> str:
    """Every method in turn, as the command line spells it."""
    return request.param
