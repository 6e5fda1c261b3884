"""Random numbers that follow from names and counts, so that a run that goes on draws what it would have drawn."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, *parts: str | int) -> np.random.Generator:
    """A generator for this seed and these parts, the same whatever was drawn before."""
    return np.random.default_rng(_sequence(seed, *parts))


def number(seed: int, *parts: str | int) -> int:
    """A seed for torch from this seed and these parts."""
    return int(_sequence(seed, *parts).generate_state(1)[0])


def _sequence(seed: int, *parts: str | int) -> np.random.SeedSequence:
    return np.random.SeedSequence(
        [seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts)]
    )
