"""What a method of bands believes the distance of two tokens is, to be compared with rows worked out by hand."""

from __future__ import annotations

import torch

from longspan.equation import Bands, Window


def row(method: Bands, window: Window, i: int) -> list[float | None]:
    """rel[i, j] for j = 0 .. i; None where token j is not seen."""
    query, found = torch.tensor([i]), []
    for j in range(i + 1):
        seen = [
            float(band.query(query)) - float(band.key(torch.tensor([j])))
            for band in method.bands(window)
            if int(band.first(query)) <= j <= int(band.last(query))
        ]
        assert len(seen) < 2, f"bands overlap at i = {i}, j = {j}"
        found.append(seen[0] if seen else None)
    return found


def window_of(length: int, target: int | None = None) -> Window:
    return Window(rotary_dim=8, original_length=length, target_length=target or 8 * length)
