"""What an arm costs, and whether its prompts have collapsed."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor, nn

from longspan.systems.hprompt_cpt.learner import Objective
from longspan.systems.hprompt_cpt.losses import disagreement
from longspan.systems.hprompt_cpt.prompted import pooled
from longspan.systems.hprompt_cpt.windows import Windows, stack

FIXED = 0
"""Seed of the random prompt that all stages are held against."""
PROBED = 16
"""Windows of each domain that the numbers on prompts rest on."""


def peak_bytes(device: torch.device) -> int:
    """The most memory used: on a GPU by tensors since the stage began, else by the process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def extra_bytes(objective: Objective) -> int:
    """What the arm keeps in memory beside the model itself and its optimizer: teacher, prompts, Fisher information."""
    modules: list[nn.Module | None] = [objective.teacher, objective.learner.source]
    found = sum(_bytes(module.parameters()) for module in modules if module is not None)
    if objective.consolidation is not None:
        found += _bytes(objective.consolidation.tensors().values())
    return found


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def prompt_numbers(objective: Objective, domains: Sequence[Windows], device: torch.device) -> dict[str, float]:
    """How large the prompted states are, and how alike: to random ones, and those of one domain to another's.

    `state_norm` is the mean length of pooled states before they are normalised, `disagreement_fixed` the disagreement
    with one fixed random prompt, `disagreement_between` that of the mean states of two domains. Empty without prompts.
    """
    learner = objective.learner
    if learner.source is None:
        return {}
    learner.eval()
    means, norms, alike = [], [], []
    for windows in domains:
        batch = stack([windows.row(index) for index in range(PROBED)]).to(device)
        context, batch = learner.in_training(batch)
        prompt = learner.source(batch.input_ids, context).values
        own, other = (
            pooled(learner.model.states(batch.input_ids, batch.mask, soft), batch.mask)
            for soft in (prompt, objective.random(batch, FIXED))
        )
        means.append(own.mean(0))
        norms.append(own.norm(dim=-1).mean().item())
        alike.append(disagreement(own, other).item())
    between = [_squared_cosine(a, b) for a, b in combinations(means, 2)]
    return {"state_norm": fmean(norms), "disagreement_fixed": fmean(alike), "disagreement_between": fmean(between)}


def _squared_cosine(a: Tensor, b: Tensor) -> float:
    return disagreement(a[None], b[None]).item()
