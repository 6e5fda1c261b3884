"""What a study measures: cells of task x extension x length, and which of them are the same measurement."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from longspan.equation import Frequency, Method, Scale, Window
from longspan.registry import parse_methods
from longspan.study.config import StudyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One task at one length under one extension."""

    task: str
    """`perplexity`, `position` or `passkey`."""
    extension: str
    """What is added to the trained arm, as `parse_methods` reads it; `none` adds nothing."""
    length: int
    """Tokens in the model's window, and the target length of the extension."""
    same_as: str
    """The extension under which this very measurement is made: its own, or an earlier one that changes no more."""
    forward_tokens: int
    """Tokens that the model reads for it: what it costs, up to attention."""

    @property
    def is_measured(self) -> bool:
        """Whether this cell is measured itself and not taken over from another extension."""
        return self.same_as == self.extension

    @property
    def work(self) -> float:
        """Cost in forward tokens of a short window; attention makes a token at 2k about twice as dear."""
        return self.forward_tokens * (1 + self.length / 2048)


def plan_cells(study: StudyConfig, arm: str) -> list[Cell]:
    """All cells of one arm, measured ones before those that repeat them, short ones first."""
    cells = []
    extensions = study.extensions_of(arm)
    original_length = study.run_config(arm).train_length
    position = study.evaluate.position
    for task, lengths in study.lengths_by_task().items():
        under = ["none"] if task == "position" and position is not None and not position.extensions else extensions
        for length in lengths:
            plain = [name for name in under if changes_nothing(name, original_length, length)]
            for extension in under:
                same_as = plain[0] if extension in plain else extension
                cells.append(
                    Cell(
                        task=task,
                        extension=extension,
                        length=length,
                        same_as=same_as,
                        forward_tokens=study.forward_tokens(task, length) if same_as == extension else 0,
                    )
                )
    order = {extension: place for place, extension in enumerate(extensions)}
    return sorted(cells, key=lambda cell: (not cell.is_measured, order[cell.extension], cell.length))


def changes_nothing(extension: str, original_length: int, length: int) -> bool:
    """Whether `extension`, aimed at `length`, leaves the equation as it was trained for every token up to `length`.

    Compared are the numbers themselves: frequencies of a window as long as the target, and the scale of each query.
    """
    target_length = max(length, original_length)
    window = Window(rotary_dim=64, original_length=original_length, target_length=target_length, length=length)
    return all(_leaves(method, window, length) for method in parse_methods(extension))


def _leaves(method: Method, window: Window, length: int) -> bool:
    if not set(method.slots()) <= {"frequency", "scale"}:
        return False
    same = True
    if isinstance(method, Frequency):
        same = torch.allclose(method.frequency(window), window.omega, rtol=1e-12, atol=0)
    if isinstance(method, Scale):
        tau = method.scale(window, torch.arange(length))
        same = same and torch.allclose(tau, torch.ones_like(tau), rtol=1e-12, atol=0)
    return same
