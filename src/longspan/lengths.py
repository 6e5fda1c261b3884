"""Lengths as people write them: `512`, `32k`, `1m`, where k is 1024; and numbers of bytes."""

from __future__ import annotations

import re

from longspan.errors import LengthError

_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def parse_length(text: str | int) -> int:
    """Tokens in `text`: `512` -> 512, `32k` -> 32768, `1m` -> 1048576.

    Raises:
        LengthError: anything that is not a positive whole number with an optional k or m.
    """
    match = re.fullmatch(r"(\d+)([km]?)", str(text).strip().lower())
    if match is None or int(match[1]) == 0:
        raise LengthError(f"'{text}' is not a length: write a positive number such as 512, 32k or 1m (k = 1024)")
    return int(match[1]) * _UNITS[match[2]]


def parse_lengths(text: str) -> list[int]:
    """Lengths of a comma-separated list, in the order given: `512,1k` -> [512, 1024]."""
    return [parse_length(part) for part in text.split(",")]


def format_length(length: int) -> str:
    """The shortest exact form: 32768 -> `32k`, 1000 -> `1000`."""
    for unit in ("m", "k"):
        if length >= _UNITS[unit] and length % _UNITS[unit] == 0:
            return f"{length // _UNITS[unit]}{unit}"
    return str(length)


def format_bytes(number: float) -> str:
    """`1536` -> `1.5 KiB`."""
    value, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
