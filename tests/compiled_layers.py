"""`python compiled_layers.py [all]`: compile patched layers and print how far the logits of each moved.

A process of its own, since the shape checks that the tests put around every function cannot be compiled.
"""

from __future__ import annotations

import json
import sys

import torch

import longspan as ls
from conftest import FAMILIES, layers_of, make_model
from surgery_methods import BANDED, GROWING, METHODS, SHORT, VARIED
from tolerances import logit_distance

BRIEFLY = "coca"
"""Enough for the families beside the first: what a method does is the same code in all."""

UNLIKE = ("gpt_neox", "gemma3_text", "mixtral")
"""Families whose layers differ most from those of the first."""


def distance_of_compiled(family: str, methods: str) -> float:
    """Distance between the logits of a patched model and those of its layers compiled whole.

    Only the tracing is tried, with no compiler behind it, since it is the tracing that can fail on our side.
    """
    model = make_model(family)
    ls.extend(model, methods, target_length=256)
    ids = torch.randint(3, 128, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        torch.compiler.reset()
        for layer in layers_of(model):
            layer.compile(fullgraph=True, backend="eager")
        return logit_distance(model(ids, use_cache=False).logits, expected)


if __name__ == "__main__":
    # frequencies that follow the length share one table between layers, which is made outside the graph
    # and bands look where their keys are, which no graph can
    left_out = {*GROWING, *VARIED, *(m for m in METHODS if any(name in m for name in BANDED))}
    fixed = [m for m in (METHODS if "all" in sys.argv else SHORT) if m not in left_out]
    pairs = [(FAMILIES[0], methods) for methods in fixed]
    pairs += [(family, BRIEFLY) for family in (FAMILIES[1:] if "all" in sys.argv else UNLIKE)]
    pairs += [(FAMILIES[0], "coca(projection='half')"), ("gptj", "coca(projection='half', gate='softplus')")]
    print(json.dumps({f"{family} {methods}": distance_of_compiled(family, methods) for family, methods in pairs}))
