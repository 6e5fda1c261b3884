"""SkipAlign: instruction tuning on short conversations whose turns stand apart.

Formula   blocks of a conversation (instruction, response, ...) keep unit steps inside; block j is moved by u_j, which
          never falls; K boundaries may skip: all, those between an instruction and its response (inner), or those
          between turns (outer). M = Lt - n, n tokens of the conversation
          law="pose"    u_k ~ U{u_(k-1) .. M}
          law="sorted"  u = K sorted draws from U{0 .. M}
          law="budget"  B ~ U{0 .. M}, K - 1 sorted draws from U{0 .. B}, the last u = B
Source    arXiv:2405.03939 (blocks, the three strategies). No code was released: the law of s_j, the share of skipped
          samples and the target are our reading, so call its results "SkipAlign, our reading"
Differs   unknown. Under "pose" conversations of many turns nearly all end at Lt and middle distances are thin; "sorted"
          and "budget" spread them
Checked   coverage of distances over 12 blocks by an independent simulation; equal to PoSE with N = 2 for one boundary
Training  what it is for: conversations, loss on responses alone, beside any frequency method
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from longspan.equation import Draw, Position, Window, plain_draw
from longspan.errors import MethodError
from longspan.methods.position.pose import rising, room
from longspan.settings import require


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipAlign(Position):
    """Skips between the turns of a conversation."""

    scales_window: ClassVar[bool] = True
    needs_turns: ClassVar[bool] = True

    strategy: Literal["all", "inner", "outer"] = "inner"
    """Boundaries that may skip: all, those before a response, or those before an instruction."""
    law: Literal["pose", "sorted", "budget"] = "pose"
    """How the skips are drawn: each from the one before to the end, all at once, or within a total drawn first."""
    p_skip: float = 0.5
    """Share of conversations that are skipped at all."""

    def check(self) -> None:
        require(0 <= self.p_skip <= 1, self, "p_skip must be between 0 and 1")

    def draw(
        self,
        length: int,
        window: Window,
        rng: np.random.Generator,
        *,
        document: int | None = None,
        turns: np.ndarray | None = None,
    ) -> Draw:
        apart = room(self, length, window)
        if turns is None or len(turns) != length:
            raise MethodError("SkipAlign skips between turns, and this text has none: train it on conversations")
        skipped = rng.random() < self.p_skip
        opens = np.flatnonzero(np.diff(turns)) + 1
        block = turns[opens]
        chosen = {"all": block >= 0, "inner": block % 2 == 1, "outer": block % 2 == 0}[self.strategy]
        places = opens[chosen]
        if not skipped or apart == 0 or not len(places):
            return plain_draw(length)
        moved = np.zeros(length, dtype=np.int64)
        moved[places] = np.diff(self._skips(len(places), apart, rng), prepend=0)
        return plain_draw(length, np.arange(length) + moved.cumsum())

    def _skips(self, count: int, apart: int, rng: np.random.Generator) -> np.ndarray:
        """u of each boundary, not falling, at most `apart`."""
        if self.law == "pose":
            return rising(rng, count, 0, apart)
        if self.law == "sorted":
            return np.sort(rng.integers(0, apart, size=count, endpoint=True))
        total = rng.integers(0, apart, endpoint=True)
        return np.append(np.sort(rng.integers(0, total, size=count - 1, endpoint=True)), total)
