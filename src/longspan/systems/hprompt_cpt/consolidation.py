"""Elastic weight consolidation: which weights mattered to earlier stages, and where they stood.

Source: arXiv:1612.00796, with the Fisher information of all stages summed (arXiv:1712.03847) and one anchor, the
weights after the last stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


class Consolidation:
    """Fisher information and anchor of the weights that learn, by name."""

    def __init__(self, fisher: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        assert fisher.keys() == anchor.keys()
        self.fisher, self.anchor = dict(fisher), dict(anchor)

    def penalty(self, model: nn.Module) -> Tensor:
        """Half the sum of F (w - w_anchor)^2 over all weights."""
        parts = [
            (self.fisher[name] * (weight - self.anchor[name]).square()).sum()
            for name, weight in model.named_parameters()
            if name in self.fisher
        ]
        return 0.5 * torch.stack(parts).sum()

    def to(self, device: torch.device) -> Consolidation:
        """The same on `device`."""
        return Consolidation(*({name: x.to(device) for name, x in y.items()} for y in (self.fisher, self.anchor)))

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, to be saved."""
        named = {"fisher": self.fisher, "anchor": self.anchor}
        return {f"{kind}.{name}": x.contiguous() for kind, found in named.items() for name, x in found.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Consolidation:
        """What `tensors` gave."""
        parts: dict[str, dict[str, Tensor]] = {"fisher": {}, "anchor": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            parts[kind][name] = value
        return cls(parts["fisher"], parts["anchor"])


def consolidate(
    model: nn.Module, losses: Sequence[Callable[[], Tensor]], before: Consolidation | None = None
) -> Consolidation:
    """Consolidation after a stage: the mean squared gradient of each of `losses`, added to that of earlier stages."""
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    fisher = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss(), list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                fisher[name] += gradient.square() / len(losses)
    anchor = {name: weight.detach().clone() for name, weight in weights.items()}
    for name in fisher:
        if before is not None:
            fisher[name] += before.fisher[name]
    return Consolidation(fisher, anchor)
