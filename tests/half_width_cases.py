"""Steps of decoding over half-width keys, and what the float64 reference says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longspan.equation import Method, Window, fill_slots
from longspan.kernels.features import key_features, query_features
from longspan.kernels.half_width import half_width_attention, key_turns
from longspan.methods.feature.coca import Coca
from longspan.methods.frequency.dynamic_ntk import DynamicNtk
from longspan.reference import reference_attention
from longspan.rotation import rotation_tables

FIRST = 1000
"""Where the first key of a row stands, unless a case says otherwise."""


@dataclass
class Step:
    """New tokens of two rows that see cached ones."""

    keys: int = 301
    heads: int = 4
    key_heads: int = 2
    head_dim: int = 32
    rotary_dim: int = 32
    layout: Any = "half"
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seen: Tensor | None = None
    """`2 1|T S`"""
    positions: Tensor | None = None
    """Of the keys, `2 S`"""
    queries: int = 1
    growing: bool = False
    """Dynamic NTK, each row at a length of its own."""

    def __post_init__(self) -> None:
        self.methods: list[Method] = [Coca(gate="softplus"), *([DynamicNtk(factor=4.0)] if self.growing else [])]
        generator = torch.Generator().manual_seed(0)
        shapes = ((self.heads, self.queries), (self.key_heads, self.keys), (self.key_heads, self.keys))
        self.q, self.k, self.v = (
            torch.randn(2, *shape, self.head_dim, generator=generator).to(self.dtype) for shape in shapes
        )
        if self.positions is None:
            self.positions = torch.arange(FIRST, FIRST + self.keys).expand(2, -1)
        self.query_positions = self.positions.amax(-1, keepdim=True) + torch.arange(self.queries)
        window = Window(rotary_dim=self.rotary_dim, original_length=64, target_length=4096, layout=self.layout)
        self.windows = [window.at(2000), window.at(3000)]

    def found(self) -> Tensor:
        """From the kernel, which reads the front of buffers that hold NaN behind it."""
        slots = fill_slots(self.methods)
        omega = torch.stack([slots.omega(window) for window in self.windows])
        omega = omega if self.growing else omega[0]
        tables = rotation_tables(omega, self.query_positions, torch.float32)
        query = query_features(self.q, slots, self.rotary_dim, self.layout, tables, None)
        key = key_features(self.k, slots, self.rotary_dim, self.layout, {}, stored=True)
        pairs = self.rotary_dim // 2
        key_buffer, value_buffer = (
            torch.full((*x.shape[:2], x.shape[2] + 70, x.shape[3] + 3), torch.nan, dtype=x.dtype, device=self.device)
            for x in (key, self.v)
        )
        t, passing = key_buffer[:, :, : self.keys, :pairs], key_buffer[:, :, : self.keys, pairs + 3 :]
        value = value_buffer[:, :, : self.keys, : self.head_dim]
        t.copy_(key[..., :pairs]), passing.copy_(key[..., pairs:]), value.copy_(self.v)
        seen = None if self.seen is None else self.seen.to(self.device)
        turns = key_turns(omega.to(self.device), self.positions.to(self.device), seen, None)
        self.turned_back = turns.back is not None
        return half_width_attention(
            query.to(self.device), t, passing, value, turns, layout=self.layout, scaling=self.head_dim**-0.5, seen=seen
        ).cpu()

    def expected(self) -> Tensor:
        """From the reference, each query with the keys that it sees and no others."""
        output = torch.zeros(2, self.heads, self.queries, self.head_dim, dtype=torch.float64)
        for row in range(2):
            for query in range(self.queries):
                places = torch.arange(self.keys)
                if self.seen is not None:
                    places = self.seen[row, min(query, self.seen.shape[1] - 1)].nonzero()[:, 0]
                one = slice(row, row + 1)
                output[one, :, query : query + 1] = reference_attention(
                    self.q[one, :, query : query + 1], self.k[one][:, :, places], self.v[one][:, :, places],
                    methods=self.methods, window=self.windows[row], causal=False,
                    query_positions=self.query_positions[one, query : query + 1],
                    key_positions=self.positions[one, places],
                )  # fmt: skip
        return output


def padded(keys: int, *, left: int) -> Tensor:
    """The second row begins with `left` places that nobody sees."""
    return torch.stack((torch.ones(keys), torch.arange(keys) >= left)).bool()[:, None]


def with_hole(keys: int) -> dict[str, Any]:
    """The first row has a hole, behind which positions go on as if there were none; unseen places stand anywhere."""
    seen = torch.ones(2, 1, keys, dtype=torch.bool)
    seen[0, 0, 50:90] = False
    positions = torch.where(seen[:, 0], seen[:, 0].cumsum(-1), 7)
    return {"keys": keys, "seen": seen, "positions": positions}


CASES: dict[str, dict[str, Any]] = {
    "odd length": {},
    "whole blocks": {"keys": 512},
    "fewer than a block": {"keys": 37},
    "grouped heads": {"heads": 6},
    "as many key heads": {"heads": 2, "head_dim": 128, "rotary_dim": 128, "keys": 130},
    "odd pairs": {"head_dim": 44, "rotary_dim": 44},
    "interleaved": {"layout": "interleaved"},
    "partial": {"head_dim": 64, "rotary_dim": 16},
    "padding": {"seen": padded(301, left=100)},
    "a row that sees nothing": {"seen": padded(301, left=301)},
    "hole": with_hole(301),
    "dynamic NTK": {"growing": True},
    "dynamic NTK, hole": {"growing": True, **with_hole(301)},
    "several queries": {"queries": 3, "seen": torch.ones(3, 301, dtype=torch.bool).tril(298).expand(2, -1, -1)},
    "bfloat16": {"dtype": torch.bfloat16},
    "bfloat16, padding": {"dtype": torch.bfloat16, "seen": padded(301, left=100), "head_dim": 64, "rotary_dim": 32},
}
