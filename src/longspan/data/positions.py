"""Positions of training windows, drawn by a method: window number i has the same ones whoever makes it, and when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longspan.equation import Draw, Position, Window

IGNORED = -100
"""The label of a token that is not learned."""
_STREAM = 1
"""Keeps the draws apart from those of the text, so that all methods see the same text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placer:
    """Draws the positions of the windows of one run."""

    position: Position
    window: Window
    """Of the model that is trained; its target is where positions end."""
    seed: int
    step_rows: int
    """Windows in an optimizer step, for methods that draw once for all of them."""

    def draw(self, length: int, index: int, *, document: int | None = None) -> Draw:
        """What `Position.draw` gives for window number `index`."""
        return self.position.draw(length, self.window, self.generator(index), document=document)

    def draw_conversations(self, turns: list[np.ndarray], index: int) -> list[Draw]:
        """The draws of the conversations that stand in row number `index`, given the block of each of their tokens."""
        rng = self.generator(index)
        return [self.position.draw(len(blocks), self.window, rng, turns=blocks) for blocks in turns]

    def generator(self, index: int) -> np.random.Generator:
        """What the draws of window number `index` come from."""
        number = index // self.step_rows if self.position.shared() else index
        return np.random.default_rng(np.random.SeedSequence([self.seed, number, _STREAM]))

    def chooses(self, length: int) -> bool:
        """Whether the tokens of a window of text are chosen from more of a document than it holds."""
        reach = self.reach(length)
        return reach is None or reach > length

    def reach(self, length: int) -> int | None:
        """What `Position.reach` says."""
        return self.position.reach(length, self.window)


def placed_row(input_ids: Tensor, draw: Draw) -> dict[str, Tensor]:
    """A row of the tokens `input_ids`, the first of which stand as drawn; then follows padding at position 0."""
    real = torch.arange(len(input_ids)) < len(draw.positions)
    positions, labels = torch.zeros(len(input_ids), dtype=torch.long), input_ids.masked_fill(~real, IGNORED)
    positions[real] = torch.from_numpy(draw.positions)
    labels[torch.from_numpy(draw.unlearned)] = IGNORED
    return {"input_ids": input_ids, "labels": labels, "positions": positions}
