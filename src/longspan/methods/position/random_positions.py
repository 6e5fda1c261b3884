"""Randomised positions: a window stands at sorted random places of the target.

Formula   positions of n tokens = n draws without replacement from {0 .. Lt - 1}, sorted
Source    arXiv:2305.16843, per="batch"; code google-deepmind/randomized_positional_encodings. arXiv:2309.10400 compares
          with it as "RandPos": per="example", plain positions afterwards
Differs   the first source draws at test time too, n places for a text of n tokens that an encoder reads at once; this
          does not: a decoder that writes does not know its n, and cached keys would have to move with each token.
          Evaluation is at plain positions, as in the second. Nearly every distance occurs, but only Lc / Lt of
          neighbours keep distance 1, and position 0 is seldom used
Checked   share of neighbours at distance 1; every position as often as every other
Training  from scratch in the first source (lengths 1 to 40, Lt 2048); fine-tuning in the second, where it fails
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from longspan.equation import Draw, Position, Window, plain_draw
from longspan.methods.position.pose import room


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPositions(Position):
    """Sorted random positions."""

    scales_window: ClassVar[bool] = True

    per: Literal["example", "batch"] = "example"
    """What a draw serves: one window, or all windows of an optimizer step."""

    def shared(self) -> bool:
        return self.per == "batch"

    def draw(
        self,
        length: int,
        window: Window,
        rng: np.random.Generator,
        *,
        document: int | None = None,
        turns: np.ndarray | None = None,
    ) -> Draw:
        room(self, length, window)
        return plain_draw(length, np.sort(rng.choice(window.target_length, length, replace=False)))
