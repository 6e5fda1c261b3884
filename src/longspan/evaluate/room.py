"""Whether a length fits into memory at all, told before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch
from transformers import PreTrainedModel

from longspan.errors import LengthError
from longspan.lengths import format_length


def free_bytes(device: torch.device) -> int:
    """Memory that is free on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def least_bytes_per_token(model: PreTrainedModel) -> int:
    """What a forward pass takes of memory for each token at least: the residual stream and the inside of an MLP."""
    hidden = int(model.config.hidden_size)
    inner = int(getattr(model.config, "intermediate_size", None) or 4 * hidden)
    return (2 * hidden + 2 * inner) * model.dtype.itemsize


def check_memory(model: PreTrainedModel, lengths: Sequence[int]) -> None:
    """Refuse a length that cannot fit; one that may fit is let pass.

    Raises:
        LengthError: the longest takes more memory than is free, by a lower bound.
    """
    longest, free = max(lengths), free_bytes(model.device)
    fits = free // least_bytes_per_token(model)
    if longest > fits:
        raise LengthError(
            f"length {format_length(longest)} is beyond memory: {free / 2**30:.1f} GiB are free on "
            f"{model.device.type}, and at most {fits} tokens fit into that; choose shorter lengths, --dtype bfloat16 "
            "or another --device"
        )
