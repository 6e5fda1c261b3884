"""Planted faults: each one breaks a healthy extended model the way a real mistake does.

A fault is a function that sabotages a model in place, or returns another one. What it replaces outside the model it
replaces by the monkeypatch that it is given, so that everything is as before afterwards. One file a theme; a new file
is found by being here.
"""

import importlib
import pkgutil

from doctor.faults.fault import FAULTS, TARGET, Fault
from doctor.faults.tools import by_transformers

for _theme in pkgutil.iter_modules(__path__, __name__ + "."):
    importlib.import_module(_theme.name)

__all__ = ["FAULTS", "TARGET", "Fault", "by_transformers"]
