"""Semantic IDs: the codes of every item, as the tokens that the model reads and as the public JSON files hold them.

Formula   code c of level l is token 2 + K l + c, for K codes a level; 0 is padding and the decoder's start, 1 is EOS
Source    arXiv:2506.15576, the authors' code; the JSON of HonghuiBao2000/LETTER: {"item": ["<a_183>", "<b_70>", ...]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from longspan.errors import DataError

PAD, EOS, FIRST = 0, 1, 2
"""Padding (and the decoder's start), the end, and the first code of the first level."""
_CODE = re.compile(r"<([a-z])_(\d+)>")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class SemanticIds:
    """The codes of all items."""

    codes: Int64[np.ndarray, "items levels"]
    codebook_size: int = 256
    """K: codes of a level."""

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or not self.codes.size:
            raise DataError(f"semantic IDs are a table of items x levels, not of shape {self.codes.shape}")
        if self.codes.min() < 0 or self.codes.max() >= self.codebook_size:
            raise DataError(
                f"a code {self.codes.max()} in codebooks of {self.codebook_size}: give a codebook_size above"
            )

    @property
    def levels(self) -> int:
        """L: codes of an item."""
        return int(self.codes.shape[1])

    @property
    def vocabulary(self) -> int:
        """Tokens in all."""
        return FIRST + self.levels * self.codebook_size

    @property
    def tokens(self) -> Int64[np.ndarray, "items levels"]:
        """The codes of all items as tokens."""
        return self.tokens_of(np.arange(len(self.codes)))

    def tokens_of(self, items: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n levels"]:
        """The codes of some items as tokens."""
        return self.codes[items] + FIRST + self.codebook_size * np.arange(self.levels)

    @property
    def groups(self) -> Int64[np.ndarray, " items"]:
        """A number for each item, equal where the codes are: the order of the codes among the distinct ones."""
        return np.unique(self.codes, axis=0, return_inverse=True)[1].reshape(-1)

    @property
    def collisions(self) -> float:
        """Share of the items that would have to get other codes for all to be distinct."""
        return (len(self.codes) - len(np.unique(self.codes, axis=0))) / len(self.codes)

    def save(self) -> dict[str, list[str]]:
        """As the public JSON files hold them."""
        return {
            str(item): [f"<{_LETTERS[level]}_{code}>" for level, code in enumerate(row)]
            for item, row in enumerate(self.codes.tolist())
        }

    @classmethod
    def read(cls, path: Path, items: Sequence[str], codebook_size: int | None = None) -> SemanticIds:
        """The codes of `items` in a public JSON file.

        Args:
            items: their names in the file, in the order wanted.
            codebook_size: codes of a level; by default 256, or as many as the largest code asks for.

        Raises:
            DataError: the file is no such JSON, an item has no codes, or the items have different numbers of them.
        """
        table = read_object(path)
        rows = []
        for item in items:
            if item not in table:
                raise DataError(
                    f"{path} has no codes for item '{item}': give the file that belongs to these interactions"
                )
            rows.append(_parse(table[item], item, path))
            if len(rows[-1]) != len(rows[0]):
                raise DataError(
                    f"{path}: item '{item}' has {len(rows[-1])} codes and the first {len(rows[0])}; mend it"
                )
        codes = np.array(rows, dtype=np.int64)
        return cls(codes, max(256, int(codes.max()) + 1) if codebook_size is None else codebook_size)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or f"no JSON ({error})"
        raise DataError(f"{path} cannot be read: {reason}; give a JSON file") from error
    if not isinstance(value, dict) or not value:
        raise DataError(f'{path} holds no JSON object with entries: give a file such as {{"0": [...]}}')
    return value


def _parse(words: Any, item: str, path: Path) -> list[int]:
    """`["<a_183>", "<b_70>"]` as numbers; the letters count the levels."""
    found = [_CODE.fullmatch(str(word)) for word in words] if isinstance(words, list) else []
    levels = [match[1] for match in found if match]
    if not found or levels != list(_LETTERS[: len(found)]):
        raise DataError(f'{path}: item \'{item}\' has {words!r:.60}, not codes such as ["<a_183>", "<b_70>"]; mend it')
    return [int(match[2]) for match in found if match]
