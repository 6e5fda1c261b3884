"""Measures models past their training window: perplexity, loss by position, passkey; with intervals, resumable."""

from __future__ import annotations

from longspan.evaluate.forward import check_finite
from longspan.evaluate.passkey import check_passkey_lengths, passkey, reach
from longspan.evaluate.perplexity import DocumentNll, document_nll, paired_difference, perplexity
from longspan.evaluate.position import position_curve
from longspan.evaluate.token_bytes import token_byte_counts
from longspan.evaluate.trials import PasskeyTrial, passkey_trials
from longspan.evaluate.windows import make_protocol

__all__ = [
    "DocumentNll",
    "PasskeyTrial",
    "check_finite",
    "check_passkey_lengths",
    "document_nll",
    "make_protocol",
    "paired_difference",
    "passkey",
    "passkey_trials",
    "perplexity",
    "position_curve",
    "reach",
    "token_byte_counts",
]
