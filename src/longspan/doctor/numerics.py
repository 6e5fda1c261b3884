"""Checks of precision: angles, numbers that stay finite, gradients that arrive."""

from __future__ import annotations

import torch
from torch import nn

from longspan.doctor.claims import rotaries, tables, terms
from longspan.doctor.finding import DoesNotApply, Finding, at_most
from longspan.doctor.probe import Probe
from longspan.doctor.registry import check
from longspan.doctor.tap import attention_modules
from longspan.rotation import rotation_tables

EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.bfloat16)}
ZERO_ROWS = 0.9
"""Share of the rows of a weight that may get no gradient from one probe: pairs whose gate is closed for its tokens.

A trained model that has just been turned into CoCA may have half of them closed, and is healthy."""


@check(
    holds="cos and sin up to the target length equal float64 ones; 1e-4 and what float32 angles and the output lose",
    advice="angles are computed in low precision: keep frequencies and positions in float32 at least (a model cast by "
    ".bfloat16() casts its tables too; load it with dtype= instead)",
)
@torch.no_grad()
def angles(probe: Probe) -> Finding:
    """Are angles exact out to the target length, in a model that computes in bf16 too?"""
    positions = probe.spread()
    worst, detail = 0.0, ""
    # float32 counts angles to its last bit, which is what transformers itself affords
    allowed = 1e-4 + 2 * probe.target * EPS[torch.float32]
    for module, layer_type in rotaries(probe):
        slots, window = terms(probe, layer_type)
        omega = slots.omega(window.at(int(positions.max()) + 1)).to(probe.device)
        expected = rotation_tables(omega, positions[0], torch.float64, slots.start(window))
        for dtype, eps in EPS.items():
            found = tables(probe, module, layer_type, positions, dtype)
            size = found[0].double().pow(2).add(found[1].double().pow(2)).sqrt().clamp(min=1e-9)
            off = torch.stack([(table / size - true).abs() for table, true in zip(found, expected, strict=True)])
            error = float((off - eps).clamp(min=0).max())  # the rounding of the output itself is no fault
            if not error <= worst:
                worst, detail = error, f"hidden states in {str(dtype).removeprefix('torch.')}"
    return at_most(worst, allowed, detail)


@check(
    holds="all logits are finite at the last positions of the target",
    advice="numbers overflow: use bfloat16 or float32, and look at features that square (coca in float16)",
)
def finite(probe: Probe) -> Finding:
    """Do logits stay finite at the far end of the window?"""
    positions = probe.spread()
    logits = probe.logits(probe.tokens(), positions)
    wrong = int((~logits.isfinite()).sum())
    return at_most(wrong, 0, f"positions up to {int(positions.max())}")


@check(
    holds="in the first and last layer, a tenth of the rows of each trainable weight or more gets a gradient",
    advice="something detaches what should train (a feature under no_grad, a frozen parameter), or the gate of a "
    "feature is closed for good",
)
def gradient(probe: Probe) -> Finding:
    """Does the gradient reach the attention weights that should train?"""
    modules = list(attention_modules(probe.model).items())
    named = [
        (f"{name}.{key}", parameter)
        for name, module in dict([modules[0], modules[-1]]).items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.dim() > 1  # adding a number to all logits of a query has no gradient
    ]
    if not named:
        raise DoesNotApply("all attention weights are frozen")
    tokens = probe.tokens()
    with torch.enable_grad():
        logits = probe.model(tokens, use_cache=False).logits.float()
        loss = nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:])
        found = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=True)
    shares = [
        1.0 if value is None or not value.isfinite().all() else float((value == 0).all(-1).float().mean())
        for value in found
    ]
    worst = max(range(len(shares)), key=shares.__getitem__)
    return at_most(shares[worst], ZERO_ROWS, f"rows without a gradient, most in {named[worst][0]}")
