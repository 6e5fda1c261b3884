"""Checks of what a token may see: the past, its own document, no padding; and of what moves it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from longspan.doctor.claims import relative
from longspan.doctor.finding import DoesNotApply, Finding, at_most
from longspan.doctor.probe import LENGTH, Probe, attention_named, distance
from longspan.doctor.registry import check
from longspan.doctor.tap import rotary_positions
from longspan.errors import LongspanError

SHIFT = 1000
"""How far all positions are moved."""
PADDED = 5
"""Places of padding in a row."""
JUMP = 7
"""Positions left out in the middle of a probe."""


@check(
    holds="changing the last token moves no earlier logit: 0, or rounding, in sd; nor, where groups of tokens choose "
    "what they see, the second half of a group its first",
    advice="the model sees the future: an attention function without a mask function, a mask that is dropped, or "
    "select_merge with routing='lookahead'",
)
def causality(probe: Probe) -> Finding:
    """Do later tokens leave earlier logits alone?"""
    found, detail = _moved(probe, LENGTH, 1, LENGTH), f"{LENGTH} tokens, without a mask"
    if probe.routed is not None:
        length, group = probe.routed
        found, detail = max(found, _moved(probe, length, group // 2, group)), f"{detail}; {length} tokens"
    return at_most(found, probe.tolerance / 100, detail)


def _moved(probe: Probe, length: int, changed: int, kept: int) -> float:
    """How far logits of `length` tokens move when the last ones are changed, among those of the last `kept`."""
    tokens = probe.tokens(length=length)
    other = tokens.clone()
    other[:, -changed:] = (other[:, -changed:] + 1) % probe.model.config.vocab_size
    few: dict[str, Any] = {"logits_to_keep": kept} if kept < length else {}
    found, expected = (probe.logits(x, **few)[:, :-changed] for x in (other, tokens))
    return distance(found, expected)


@check(
    holds="the name of the attention implementation has a mask function",
    advice="register a mask function of the same name (AttentionMaskInterface.register); without one no mask is built",
)
def mask_function(probe: Probe) -> Finding:
    """Will transformers build a mask for this attention implementation?"""
    name = probe.model.config._attn_implementation
    known = name in ALL_MASK_ATTENTION_FUNCTIONS._global_mapping  # which is where transformers looks
    return Finding(passed=known, measured=name, threshold="a registered name", detail="" if known else "no mask")


@check(
    holds="eager and sdpa attention give the same logits, in sd",
    advice="one of the two drops a mask, a bias or a scaling: use the one that passes attention_scores and causality",
)
def sdpa_equals_eager(probe: Probe) -> Finding:
    """Does the result not depend on the attention implementation?"""
    found = _eager_and_sdpa(probe, probe.model)
    if found is None or found > probe.tolerance:
        own = _eager_and_sdpa(probe, probe.plain)
        if own is None or own > probe.tolerance:
            raise DoesNotApply("in this family sdpa and eager differ without an extension too")
    if found is None:
        return Finding(passed=False, measured="error", threshold=probe.tolerance, detail="one of the two is refused")
    return at_most(found, probe.tolerance)


def _eager_and_sdpa(probe: Probe, model: PreTrainedModel) -> float | None:
    """How far the two are apart; None where one of them is refused."""
    tokens, positions = probe.tokens(), probe.crossing()
    found = []
    for name in ("eager", "sdpa"):
        with attention_named(model, name):
            try:
                found.append(probe.logits(tokens, positions, model=model))
            except (ValueError, KeyError, LongspanError):
                return None
    return distance(*found)


@check(
    holds="all positions moved by 1000 give the same logits where the equation says so, in sd",
    advice="the features or their rotation depend on absolute positions: positions must then start at 0 always",
)
def shift_invariance(probe: Probe) -> Finding:
    """Do only distances count, where the method claims it?"""
    if not relative(probe, SHIFT):
        raise DoesNotApply("the methods in force depend on absolute positions or on the length, by their formula")
    if probe.positions_end is not None and probe.positions_end < SHIFT + LENGTH:
        raise DoesNotApply(f"the model has a table of {probe.positions_end} positions")
    positions, tokens = torch.arange(LENGTH, device=probe.device)[None], probe.tokens()
    found = probe.logits(tokens, positions + SHIFT)
    return at_most(distance(found, probe.logits(tokens, positions)), probe.tolerance, f"moved by {SHIFT}")


@check(
    holds="a row padded on the left gives the logits it gives alone, in the first pass and in the next step, in sd",
    advice="pass attention_mask, and position_ids counted from the first real token; nothing may derive them otherwise",
)
def padding_left(probe: Probe) -> Finding:
    """Does padding on the left change nothing, with a cache too?"""
    return _padding(probe, left=True)


@check(
    holds="a row padded on the right gives the logits it gives alone, in sd",
    advice="pass attention_mask; positions of padding must not exceed those of the real tokens",
)
def padding_right(probe: Probe) -> Finding:
    """Does padding on the right change nothing?"""
    return _padding(probe, left=False)


def _padding(probe: Probe, *, left: bool) -> Finding:
    tokens, padding = probe.tokens(rows=2), probe.tokens(rows=2, length=PADDED, seed=1)
    real = LENGTH - PADDED
    order = (padding, tokens[:, :real]) if left else (tokens[:, :real], padding)
    mixed = torch.cat((tokens[:1], torch.cat(order, dim=1)[1:]))
    mask = torch.ones_like(mixed)
    mask[1, slice(None, PADDED) if left else slice(real, None)] = 0
    start = int(probe.crossing().min())
    positions = torch.arange(LENGTH, device=probe.device).repeat(2, 1) + start
    positions[1] = (positions[1] - PADDED).clamp(min=start) if left else positions[1].clamp(max=start + real - 1)
    cache = DynamicCache(config=probe.model.config)
    found = probe.logits(mixed, positions, attention_mask=mask, past_key_values=cache)
    alone = probe.logits(tokens[1:, :real], positions[:1, :real])
    found = found[1:, PADDED:] if left else found[1:, :real]
    if left:
        step, step_alone = _next_step(probe, cache, mask, tokens, positions)
        found, alone = torch.cat((found, step), dim=1), torch.cat((alone, step_alone), dim=1)
    return at_most(
        distance(found, alone), probe.tolerance, f"{PADDED} of {LENGTH} places padded, positions from {start}"
    )


def _next_step(
    probe: Probe, cache: DynamicCache, mask: Tensor, tokens: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits of one more token behind the padded row, and behind the same row that was never padded."""
    real = LENGTH - PADDED
    token = tokens[:, real : real + 1]
    mask = torch.cat((mask, torch.ones_like(mask[:, :1])), dim=1)
    found = probe.logits(token, positions[:, -1:] + 1, attention_mask=mask, past_key_values=cache)[1:]
    bare = DynamicCache(config=probe.model.config)
    row = positions[:1]
    probe.logits(tokens[1:, :real], row[:, :real], past_key_values=bare)
    alone = probe.logits(token[1:], row[:, real : real + 1], past_key_values=bare)
    return found, alone


@check(
    holds="two documents in one row, positions starting anew, give the logits that each gives alone, in sd",
    advice="documents leak into each other: pass position_ids that start anew and no attention_mask, or a 4-D mask",
)
def packing(probe: Probe) -> Finding:
    """Do packed documents not see each other?"""
    half = LENGTH // 2
    tokens = probe.tokens()
    positions = torch.arange(half, device=probe.device).repeat(2)[None]
    found = probe.logits(tokens, positions, packed=True)
    parts = [probe.logits(part, positions[:, :half]) for part in tokens.split(half, dim=1)]
    return at_most(distance(found, torch.cat(parts, dim=1)), probe.tolerance, f"two documents of {half} tokens")


@check(
    holds="positions that jump, with a mask of ones, give the logits of jumps inside the rotary module alone, in sd",
    advice="a step in position_ids is read as the border of a document: pass a mask of ones, or change positions "
    "inside the rotary module only",
)
def position_jumps(probe: Probe) -> Finding:
    """Are jumps in the positions not read as borders of documents?"""
    tokens = probe.tokens()
    positions = torch.arange(LENGTH, device=probe.device)[None]
    positions = positions + JUMP * (positions >= LENGTH // 2)
    with rotary_positions(probe.model, positions):
        expected = probe.logits(tokens)
    without = distance(probe.logits(tokens, positions, packed=True), expected)
    detail = f"without any mask transformers cuts there: {without:.3g}" if without > probe.tolerance else ""
    return at_most(distance(probe.logits(tokens, positions), expected), probe.tolerance, detail)
