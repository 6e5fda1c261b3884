"""longspan: make the context window of a transformer language model longer, and prove that it took effect.

Importing it is light: torch and transformers load when a name that needs them is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from longspan import _registration

__version__ = "0.1.0"

_NAMES = {
    "Window": "longspan.equation",
    "reference_attention": "longspan.reference",
    "attention": "longspan.kernels.dense",
    "BoundedCache": "longspan.surgery",
    "CollinearCache": "longspan.surgery",
    "Patch": "longspan.surgery",
    "Plan": "longspan.surgery",
    "convert": "longspan.surgery",
    "doctor": "longspan.doctor",
    "extend": "longspan.surgery",
    "load": "longspan.models",
    "plan": "longspan.surgery",
    "perplexity": "longspan.evaluate",
    "position_curve": "longspan.evaluate",
    "passkey": "longspan.evaluate",
    "search_factors": "longspan.search",
    "LongspanError": "longspan.errors",
}
"""Where each public name lives; methods are found by the registry and need no line here."""


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'longspan' has no attribute '{name}'")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    from longspan.registry import all_methods

    for method in all_methods().values():
        if method.__name__ == name:
            return method
    raise AttributeError(f"module 'longspan' has no attribute '{name}'")


def __dir__() -> list[str]:
    from longspan.registry import all_methods

    return sorted([*_NAMES, *(method.__name__ for method in all_methods().values()), "__version__"])


_registration.install()
