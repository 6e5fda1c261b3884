"""PoSE: train on short windows whose chunks stand apart, so that every distance up to the target occurs.

Formula   N chunks of lengths l_0 .. l_(N-1), sum Lc, st_i = l_0 + .. + l_(i-1); chunk i stands at u_i + st_i + (0 ..
          l_i - 1), u_0 = 0, u_i ~ U{u_(i-1) .. Lt - Lc}, ends included; its text is x[v_i + st_i + (0 .. l_i - 1)],
          v_0 = 0, v_i ~ U{v_(i-1) .. Lx - Lc}, x a document of Lx tokens
Source    arXiv:2309.10400 v3; official code dwzhu-pku/PoSE
Differs   the code halves the first chunk (lengths="code") and its first version let it float (floating=True); both are
          options. For N > 2 the paper's figure draws one length after another (lengths="sticks"), which favours long
          first chunks; the default draws all cuts alike. x is a stretch of Lt tokens from anywhere in a document
          (source="target"): with whole documents first chunks would be nothing but beginnings of documents, which
          matters where these are books. Drawn anew for each window; the code draws once for all epochs. A window that
          is as long as the target is plain
Checked   all 15 draws of Lc = 4, Lt = 8 by hand; coverage of distances beyond Lc, min(Lc - 1, Lt - d) / (Lt - Lc + 1)
          for N = 2; transformers with the same positions and a mask of ones
Training  what it is for: windows of Lc tokens, beside any frequency method with s = Lt / Lc. The last Lc distances
          occur seldom: set the target above what you will use. chunks=1 is plain training, the control to compare with
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from longspan.equation import Draw, Position, Window, plain_draw
from longspan.errors import LengthError
from longspan.settings import require


def room(method: Position, length: int, window: Window) -> int:
    """Lt - n: how far the tokens of a window can be moved apart.

    Raises:
        LengthError: the window is empty or longer than the target.
    """
    if length < 1:
        raise LengthError("a training window has no token: give documents with text")
    if length > window.target_length:
        raise LengthError(
            f"{type(method).__name__} cannot place a window of {length} tokens within target_length "
            f"{window.target_length}: raise the target or shorten the window"
        )
    return window.target_length - length


def rising(rng: np.random.Generator, count: int, first: int, last: int) -> np.ndarray:
    """`count` whole numbers, each uniform from the one before (the first from `first`) to `last`, ends included."""
    found = []
    for _ in range(count):
        first = int(rng.integers(first, last, endpoint=True))
        found.append(first)
    return np.array(found, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoSE(Position):
    """Positional skip-wise training."""

    scales_window: ClassVar[bool] = True

    chunks: int = 2
    """N: pieces that a window is cut into; 1 is plain training."""
    lengths: Literal["paper", "sticks", "code"] = "paper"
    """Where it is cut: anywhere alike; one length after another, as the paper's figure for N = 3; the first chunk at
    most half of the window, as the code for N = 2."""
    content: Literal["uniform", "contiguous", "true"] = "uniform"
    """What text a chunk has: from further on in the document, by a draw of its own; what follows in the text; or what
    stands in the document where the chunk stands (v = u)."""
    floating: bool = False
    """Move the first chunk too, as the first version of the code did: distances beyond Lc are then seldom far."""
    source: Literal["target", "document"] | int = "target"
    """Tokens that chunks are chosen from: a stretch of so many (or of target_length) from anywhere in a document, or
    whole documents."""
    mask_seam: bool = False
    """Do not learn the first token of a chunk that does not follow what stands before it."""

    def check(self) -> None:
        require(self.chunks >= 1, self, "chunks must be at least 1")
        require(self.lengths != "code" or self.chunks == 2, self, "lengths='code' is for 2 chunks")
        require(not isinstance(self.source, int) or self.source > 0, self, "source must be positive")
        chooses = self.chunks > 1 and self.content != "contiguous"
        require(self.source == "target" or chooses, self, "source has no effect where chunks follow in the text")
        for name in ("floating", "mask_seam"):
            require(not getattr(self, name) or self.chunks > 1, self, f"{name} has no effect with one chunk")

    def reach(self, length: int, window: Window) -> int | None:
        if self.chunks == 1 or self.content == "contiguous":
            return length
        if self.source == "document":
            return None
        return window.target_length if self.source == "target" else self.source

    def ends_at(self, length: int, window: Window, document: int) -> int:
        if self.chunks == 1:
            return length
        if self.content != "true":
            return window.target_length
        return min(document, self.reach(length, window) or document, window.target_length)

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
        if apart == 0 or self.chunks == 1:
            return plain_draw(length)
        chunks = min(self.chunks, length)
        if chunks < self.chunks:
            warnings.warn(f"{self} cuts windows of {length} tokens into {chunks} chunks of one token", stacklevel=2)
        further = (document or length) - length
        if self.content == "true" and document is not None:
            apart = min(apart, further)
        chunk = np.repeat(np.arange(chunks), self._lengths(chunks, length, rng))
        place = np.arange(length)
        skips = self._skips(chunks, apart, rng)[chunk]
        if document is None or self.content == "contiguous":
            text = np.zeros_like(skips)
        elif self.content == "true":
            text = skips
        else:
            text = np.concatenate(([0], rising(rng, chunks - 1, 0, further)))[chunk]
        torn = (np.diff(skips) != 0) | (np.diff(text) != 0)
        return Draw(place + text, place + skips, 1 + np.flatnonzero(torn) if self.mask_seam else place[:0])

    def _lengths(self, chunks: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """l_0 .. l_(N-1), each at least 1."""
        if chunks == 1:
            return np.array([length])
        if self.lengths == "paper":
            cuts = np.sort(rng.choice(length - 1, chunks - 1, replace=False)) + 1
        elif self.lengths == "code":
            cuts = rng.integers(1, (length + 1) // 2, size=1, endpoint=True)
        else:
            cuts = np.zeros(0, dtype=np.int64)
            for later in range(chunks - 1, 0, -1):
                last = int(cuts[-1]) if len(cuts) else 0
                cuts = np.append(cuts, rng.integers(last + 1, length - later, endpoint=True))
        return np.diff(cuts, prepend=0, append=length)

    def _skips(self, chunks: int, apart: int, rng: np.random.Generator) -> np.ndarray:
        if self.floating:
            return rising(rng, chunks, 0, apart)
        return np.concatenate(([0], rising(rng, chunks - 1, 0, apart)))
