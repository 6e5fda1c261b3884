"""Checks that the change is in effect, in every layer, and where the method promises it, only there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from longspan.doctor.claims import FREQUENCY_ERROR, filled, layer_terms, rotaries, same_as_plain, tables, terms
from longspan.doctor.finding import DoesNotApply, Finding, at_most
from longspan.doctor.plain import library_class
from longspan.doctor.probe import LENGTH, Probe, distance
from longspan.doctor.registry import check
from longspan.doctor.tap import Meeting, compare_rows, expected_logits, tapped, unrotated
from longspan.registry import format_methods

NO_EFFECT = 1e-4
"""Logits closer than this to those of the plain model were not changed. In low precision rounding alone may take them
farther: there `frequencies` and `attention_scores` tell."""


@check(
    holds="each pair turns as the formula says at the target length, relative",
    advice="the change never reached the rotary module: change the config before the model is built, or use "
    "longspan.extend, which changes the live model",
)
def frequencies(probe: Probe) -> Finding:
    """Do the pairs turn as the formula says?"""
    worst, detail = 0.0, ""
    for module, layer_type in rotaries(probe):
        slots, window = terms(probe, layer_type)
        expected = slots.omega(window.at(probe.target)).to(probe.device)
        found = _turned(probe, module, layer_type)
        if found.shape != expected.shape:
            detail = f"{len(found)} pairs turn, not {len(expected)}"
            return Finding(passed=False, measured=detail, threshold=f"{len(expected)} pairs")
        error = (found - expected).abs() / expected.abs().clamp(min=1e-12)
        if not float(error.max()) < worst:
            pair = int(error.argmax())
            worst = float(error.max())
            detail = (
                f"pair {pair} of {len(expected)} turns {found[pair]:.6g} a token, by the formula {expected[pair]:.6g}"
            )
    return at_most(worst, FREQUENCY_ERROR, detail)


@torch.no_grad()
def _turned(probe: Probe, module: nn.Module, layer_type: str | None) -> Tensor:
    """Radians a token of each pair, measured between two positions while the target length is read."""
    slots, window = terms(probe, layer_type)
    start = slots.start(window)
    first = 0 if start is None else min(start.tokens, probe.target - 2)
    positions = torch.tensor([[first, first + 1, max(probe.target - 1, first + 1)]], device=probe.device)
    cos, sin = (table.double() for table in tables(probe, module, layer_type, positions, torch.float64))
    return torch.atan2(sin[1] * cos[0] - cos[1] * sin[0], cos[1] * cos[0] + sin[1] * sin[0])


@check(
    holds="logits of attention in every layer equal the float64 equation with the methods of the config, in sd",
    advice="a layer computes something else than its methods say: extend the plain model again, and leave out tools "
    "that replace apply_rotary_pos_emb or attention classes",
)
def attention_scores(probe: Probe) -> Finding:
    """Does every layer compute the logits that the equation gives for its q and k?"""
    positions = probe.spread()
    tokens = probe.tokens()
    with tapped(probe.model) as found:
        probe.logits(tokens, positions)
    if not found:
        raise DoesNotApply(f"{library_class(probe.model).__name__} attends by a function that cannot be watched")
    hidden = {name: meeting.hidden for name, meeting in found.items()}
    with tapped(probe.plain, hidden) as before, unrotated(probe.plain):
        probe.logits(tokens, positions, model=probe.plain)
    worst, detail = -1.0, ""
    for name, meeting in found.items():
        module = probe.model.get_submodule(name)
        slots, window = layer_terms(probe, module)
        methods = filled(slots)
        parameters = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        window = window.at(int(positions.max()) + 1)
        unchanged = before[name]
        assert isinstance(unchanged, Meeting)
        expected = expected_logits(unchanged, methods, window, positions, parameters)
        logits = meeting.logits(unchanged.width).cpu()
        error = compare_rows(logits, expected)
        if meeting.scaling != before[name].scaling:
            detail = f"the softmax scale of {name} is {meeting.scaling} and not {before[name].scaling}"
            return Finding(passed=False, measured="another scale", threshold=probe.tolerance, detail=detail)
        if not error <= worst:
            worst, detail = error, f"{len(found)} layers at positions up to {int(positions.max())}; most in {name}"
    return at_most(worst, probe.tolerance, detail)


@check(
    holds="logits differ from the plain model's if the methods say so, and else do not, in sd",
    advice="the change is not in effect: see 'frequencies' and 'attention_scores', and extend the plain model again",
)
def in_effect(probe: Probe) -> Finding:
    """Do the logits differ from those of the same weights without the extension?"""
    if probe.methods and all(method.only_trains() for method in probe.methods):
        raise DoesNotApply(f"{format_methods(probe.methods)} acts in training only")
    length = LENGTH if probe.routed is None else probe.routed[0]
    positions, tokens = probe.spread(length), probe.tokens(length=length)
    few: dict[str, Any] = {} if probe.routed is None else {"logits_to_keep": LENGTH}
    plain = probe.logits(tokens, positions, model=probe.plain, **few)
    found = distance(probe.logits(tokens, positions, **few), plain)
    if same_as_plain(probe, positions):
        if probe.against is not None:
            detail = "by its config nothing is extended at these lengths"
            return Finding(passed=False, measured=found, threshold=f"over {NO_EFFECT:g}", detail=detail)
        return at_most(found, probe.tolerance, "the methods change nothing at these lengths")
    return Finding(
        passed=found > NO_EFFECT,
        measured=found,
        threshold=f"over {NO_EFFECT:g}",
        detail=f"{format_methods(probe.methods)} at positions up to {int(positions.max())}",
    )


@check(
    holds="inputs inside the trained window give the plain model's logits where the methods promise that, in sd",
    advice="the method acts on short inputs although its formula does not: check original_length and its tables",
)
def short_inputs(probe: Probe) -> Finding:
    """Are inputs inside the trained window untouched, where the method says so?"""
    positions, tokens = probe.inside(), probe.tokens()
    if not same_as_plain(probe, positions):
        raise DoesNotApply("the methods change short inputs too")
    found = distance(probe.logits(tokens, positions), probe.logits(tokens, positions, model=probe.plain))
    return at_most(found, probe.tolerance, f"positions 0 to {LENGTH - 1}")
