"""Measures models past their training window: loss, retrieval and other tasks; with intervals, resumable.

Importing it is light, so that tasks can be listed at once: names are looked up when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longspan.evaluate.document_loss import DocumentNll, document_nll, paired_difference, perplexity
    from longspan.evaluate.forward import check_finite
    from longspan.evaluate.position import position_curve
    from longspan.evaluate.retrieval import PasskeyTrial, passkey, passkey_trials, reach
    from longspan.evaluate.runner import effective_length
    from longspan.evaluate.token_bytes import token_byte_counts
    from longspan.evaluate.windows import make_protocol

_ROOMS = {
    "document_loss": ("DocumentNll", "document_nll", "paired_difference", "perplexity"),
    "forward": ("check_finite",),
    "position": ("position_curve",),
    "retrieval": ("PasskeyTrial", "passkey", "passkey_trials", "reach"),
    "runner": ("effective_length",),
    "token_bytes": ("token_byte_counts",),
    "windows": ("make_protocol",),
}
_NAMES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "DocumentNll",
    "PasskeyTrial",
    "check_finite",
    "document_nll",
    "effective_length",
    "make_protocol",
    "paired_difference",
    "passkey",
    "passkey_trials",
    "perplexity",
    "position_curve",
    "reach",
    "token_byte_counts",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'longspan.evaluate' has no attribute '{name}'")
    return getattr(importlib.import_module(f"longspan.evaluate.{_NAMES[name]}"), name)
