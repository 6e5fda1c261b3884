"""Attention whose positions depend on how far apart query and key are: a band of keys has positions of its own.

Bands are attended block by block and merged by the logarithm of their weights' sums: never a T x S matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from longspan.equation import Band, Slots
from longspan.kernels.blocks import Piece, attend_pieces
from longspan.kernels.features import query_features, rotate_keys
from longspan.rotation import Layout, rotation_tables

QUERIES = 512
"""Queries that are attended to at once."""

Turn = Callable[[Tensor, Tensor], Tensor]
"""Rotates `B H T W` by positions `B T`, whole or not."""


def banded_attention(
    q: Float[Tensor, "B H T W"],
    k: Float[Tensor, "B H S X"],
    v: Float[Tensor, "B H S V"],
    bands: Sequence[Band],
    turn_query: Turn,
    turn_key: Turn,
    *,
    query_positions: Int[Tensor, "B T"],
    key_positions: Int[Tensor, "B S"],
    seen: Bool[Tensor, "B _ S"] | None = None,
    tau: Float[Tensor, "B T"] | None = None,
    causal: bool = True,
    scaling: float,
    softcap: float | None = None,
) -> Float[Tensor, "B H T V"]:
    """Attention of the last T of S stored tokens, un-rotated q and k turned anew in each band.

    Bands must not overlap; a key in no band is not seen. A query that sees no key gets zeros.

    Args:
        turn_query: features and rotation of queries at positions of one band.
        turn_key: rotation of keys.
        seen: which stored keys count, for each query (`B T S`) or for all (`B 1 S`).
        tau: factor on the logits of each query.
        softcap: as in `attend_pieces`.
        causal: a query sees what is stored no later than itself, whatever the positions are.
    """
    turned = [turn_key(k, band.key(key_positions)) for band in bands]
    queries, keys = q.shape[2], k.shape[2]
    outputs = []
    for start in range(0, queries, QUERIES):
        rows = slice(start, min(start + QUERIES, queries))
        here = query_positions[:, rows]
        newest = torch.arange(keys - queries + rows.start, keys - queries + rows.stop, device=q.device)
        visible = seen if seen is None or seen.shape[1] == 1 else seen[:, rows]
        pieces = []
        for band, turned_keys in zip(bands, turned, strict=True):
            found = list(runs(band, here, key_positions, newest if causal else None, visible))
            if found:
                query = turn_query(q[:, :, rows], band.query(here))
                if tau is not None:
                    query = (query * tau[:, None, rows, None]).to(query.dtype)
                pieces += [Piece(query, turned_keys[:, :, run], v[:, :, run], mask) for run, mask in found]
        outputs.append(
            attend_pieces(pieces, scaling, softcap) if pieces else q.new_zeros(*q.shape[:2], here.shape[1], v.shape[-1])
        )
    return torch.cat(outputs, dim=2)


def turns(slots: Slots, rotary_dim: int, layout: Layout, omega: Tensor, rest: int) -> tuple[Turn, Turn]:
    """How the methods in force turn queries, and keys that `key_features` made, at positions of any band.

    Args:
        rotary_dim: R of the model.
        omega: `F`, or `B F`.
        rest: elements at the end of a head that pass.
    """

    def tables(x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return rotation_tables(omega, positions, torch.promote_types(x.dtype, torch.float32))

    def turn_query(q: Tensor, positions: Tensor) -> Tensor:
        return query_features(q, slots, rotary_dim, layout, tables(q, positions), None)

    def turn_key(key: Tensor, positions: Tensor) -> Tensor:
        return rotate_keys(key, rest, layout, tables(key, positions), key.dtype)

    return turn_query, turn_key


def runs(
    band: Band, queries: Tensor, keys: Tensor, newest: Tensor | None, visible: Tensor | None
) -> Iterator[tuple[slice, Tensor | None]]:
    """Stretches of stored keys that some of the queries see in this band, with a mask where not all of them do."""
    first, last = band.first(queries), band.last(queries)
    place = torch.arange(keys.shape[1], device=keys.device)

    def between(low: Tensor, high: Tensor, newest: Tensor | None) -> Tensor:
        inside = (keys >= low[..., None]) & (keys <= high[..., None])
        return inside if newest is None else inside & (place <= newest[..., None])

    oldest_newest = (None, None) if newest is None else (newest[0], newest[-1])
    some = between(first.amin(1), last.amax(1), oldest_newest[1])
    everywhere = between(first.amax(1), last.amin(1), oldest_newest[0])
    if visible is not None:
        some, everywhere = some & visible.any(1), everywhere & visible.all(1)
    if not some.any():
        return
    begin, end = _ends(some.any(0))
    middle = _longest_run(everywhere.all(0), begin, end)
    for run in (slice(begin, middle.start), middle, slice(middle.stop, end)):
        if run.start == run.stop:
            continue
        if run is middle:
            yield run, None
            continue
        mask = (keys[:, None, run] >= first[..., None]) & (keys[:, None, run] <= last[..., None])
        if newest is not None:
            mask = mask & (place[run] <= newest[:, None])
        yield run, (mask if visible is None else mask & visible[:, :, run])[:, None]


def _ends(flags: Tensor) -> tuple[int, int]:
    """Where the first True is, and behind the last."""
    places = flags.nonzero()
    return int(places[0]), int(places[-1]) + 1


def _longest_run(flags: Tensor, begin: int, end: int) -> slice:
    """The longest stretch of True between two places; empty at `end` if there is none."""
    padded = functional.pad(flags[begin:end].int(), (1, 1)).diff()
    starts, stops = (padded == 1).nonzero().flatten(), (padded == -1).nonzero().flatten()
    if not len(starts):
        return slice(end, end)
    longest = int((stops - starts).argmax())
    return slice(begin + int(starts[longest]), begin + int(stops[longest]))
