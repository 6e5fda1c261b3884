"""The reorderer on disk: one safetensors file with the features that have a weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from longspan.errors import CheckpointError
from longspan.files import replacing
from longspan.systems.xl_pe.features import FeatureSpace
from longspan.systems.xl_pe.parser import Reorderer

_FORMAT = "xl-pe-reorderer-1"
"""Changes when features get other fingerprints: weights would be found under wrong keys."""


def save_reorderer(reorderer: Reorderer, path: Path) -> None:
    """Write `path`, whole or not at all."""
    used = np.flatnonzero(reorderer.weights[:-1].any(axis=1))
    tensors = {"keys": reorderer.space.keys[used], "weights": reorderer.weights[used].astype(np.float32)}
    with replacing(path) as part:
        save_file(tensors, part, metadata={"format": _FORMAT, "beam": str(reorderer.beam)})


def load_reorderer(path: Path) -> Reorderer:
    """The reorderer saved in the file `path`.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise CheckpointError(f"{path} is no reorderer of this version: train it again by xlpe prepare")
            keys, weights = file.get_tensor("keys"), file.get_tensor("weights")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} holds no reorderer ({error}): name the folder of a prepared study") from error
    unknown = np.zeros((1, weights.shape[1]), dtype=weights.dtype)
    return Reorderer(FeatureSpace(keys), np.concatenate((weights, unknown)), int(metadata["beam"]))
