"""Item vectors for the tokenizer: given, or made of attributes and of who took the item.

Formula   TF-IDF of an item's attributes, then the leading singular directions (D of them), each row of length 1
Source    ours: the vectors of the paper (LLaMA on titles and descriptions) are not distributed
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from longspan.errors import ConfigError, DataError
from longspan.systems.discrec.interactions import Interactions

Vectors = Float32[np.ndarray, "items D"]


def read_vectors(path: Path, items: int) -> Vectors:
    """Rows of a `.npy` file, in the order of the items.

    Raises:
        DataError: the file is no such table, or does not belong to these items.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read as vectors: {reason}; give a .npy file of items x numbers") from error
    if vectors.ndim != 2 or len(vectors) != items:
        raise DataError(f"{path} has shape {vectors.shape}, and there are {items} items: give a row for each")
    if not np.isfinite(vectors).all():
        raise DataError(f"{path} holds numbers that are not finite: mend it")
    return vectors.astype(np.float32)


def attribute_vectors(interactions: Interactions, width: int) -> Vectors:
    """From what is known of the items and from who took them in training; the latter tells equal attributes apart.

    Raises:
        ConfigError: scikit-learn is not installed.
        DataError: there are too few items or attributes.
    """
    words = [list(interactions.attributes.get(item, ())) for item in interactions.items]
    for user, row in zip(interactions.users, interactions.training_histories(), strict=True):
        for item in row.tolist():
            words[item].append(f"taken by {user}")
    return _directions(words, width)


def _directions(words: list[list[str]], width: int) -> Vectors:
    try:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.preprocessing import normalize
    except ImportError as error:
        raise ConfigError(
            "item vectors need scikit-learn: pip install 'longspan[discrec]', or give --ids or --vectors"
        ) from error
    table = TfidfVectorizer(analyzer=lambda row: row).fit_transform(words)
    kept = min(width, min(table.shape) - 1)
    if kept < 1:
        raise DataError(
            f"{table.shape[0]} items with {table.shape[1]} attributes make no vectors: give more, or --vectors"
        )
    vectors: Vectors = normalize(TruncatedSVD(kept, random_state=0).fit_transform(table)).astype(np.float32)
    return vectors
