"""Checks of reading in pieces: through a cache, across the trained length, and one input after another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from longspan.doctor.finding import DoesNotApply, Finding, at_most
from longspan.doctor.masks import SHIFT
from longspan.doctor.probe import LENGTH, Probe, distance
from longspan.doctor.registry import check
from longspan.doctor.tap import compare_rows, tapped

PIECES = (LENGTH // 2, 1, 1, LENGTH // 4)
"""Tokens read at once; the rest goes one by one."""
BEAMS = 3
"""Beams of a row in beam search."""


@check(
    holds="tokens read through a cache give the logits of one full pass, inside the trained length, in sd",
    advice="positions or masks of cached decoding are wrong: compare position_ids of each step with the storage order",
)
def cached_decode(probe: Probe) -> Finding:
    """Does decoding with a cache equal the full pass?"""
    tokens, positions = probe.tokens(), probe.inside()
    found = distance(probe.decoded(tokens, positions, PIECES), probe.logits(tokens, positions))
    detail = f"pieces of {PIECES} and 1"
    if probe.routed is not None:
        first = probe.routed[0] - LENGTH // 2
        found, detail = max(found, _beyond(probe, first)), f"{detail}; {first} and 1"
    return at_most(found, probe.tolerance, detail)


def _beyond(probe: Probe, first: int) -> float:
    """How far decoding behind `first` tokens, where a group ends and another begins, is from one pass."""
    tokens = probe.tokens(length=first + LENGTH)
    cache = DynamicCache(config=probe.model.config)
    probe.logits(tokens[:, :first], past_key_values=cache, logits_to_keep=1)
    found = [probe.logits(token, past_key_values=cache) for token in tokens[:, first:].split(1, dim=1)]
    return distance(torch.cat(found, dim=1), probe.logits(tokens, logits_to_keep=LENGTH))


@check(
    holds="the same across the original length, in sd",
    advice="something changes at the original length while keys stay as they were cached: fix the frequencies for the "
    "target length (static_for='target')",
)
def decode_across(probe: Probe) -> Finding:
    """Does decoding go on across the original length as the full pass does?"""
    if probe.slots.follows_length():
        raise DoesNotApply("frequencies follow the length, so earlier states differ rightly: see stale_keys")
    if probe.target == probe.original:
        raise DoesNotApply("the window ends at the original length")
    tokens, positions = probe.tokens(), probe.crossing()
    found = probe.decoded(tokens, positions, PIECES)
    detail = f"positions {int(positions[0, 0])} to {int(positions[0, -1])}"
    return at_most(distance(found, probe.logits(tokens, positions)), probe.tolerance, detail)


@check(
    holds="in the first layer, cached keys meet a new query as fresh keys do, across the original length, in sd",
    advice="keys stay cached at frequencies of an earlier length: apply the method by longspan.extend, which caches "
    "keys un-rotated, or fix the frequencies by static_for='target'",
)
def stale_keys(probe: Probe) -> Finding:
    """Do cached keys follow the frequencies?"""
    tokens, positions = probe.tokens(), probe.crossing()
    with tapped(probe.model) as last:
        probe.decoded(tokens, positions, PIECES)
    with tapped(probe.model) as whole:
        probe.logits(tokens, positions)
    if not whole:
        raise DoesNotApply("the attention function of this family cannot be watched")
    name = next(iter(whole))
    head_dim = whole[name].width
    found, expected = last[name].logits(head_dim)[:, -1:], whole[name].logits(head_dim)[:, -1:]
    keys = min(found.shape[-1], expected.shape[-1])  # a layer that slides keeps the last ones only
    return at_most(
        compare_rows(found[..., -keys:], expected[..., -keys:]), probe.tolerance, f"the last query in {name}"
    )


@check(
    holds="an input gives the same logits before and after a longer one, in sd",
    advice="tables that grow with the longest input are not taken back: build the model anew for each length, or fix "
    "the frequencies",
)
def no_memory(probe: Probe) -> Finding:
    """Does an earlier, longer input leave no trace?"""
    tokens, positions = probe.tokens(), probe.crossing()
    before = probe.logits(tokens, positions)
    farther = 2 * max(probe.target, SHIFT)  # than any other check goes
    last = positions + farther
    probe.logits(tokens, last if probe.positions_end is None else last.clamp(max=probe.positions_end - 1))
    return at_most(distance(probe.logits(tokens, positions), before), probe.tolerance / 100)


@check(
    holds="every step of greedy and of beam search has the logits of one full pass over what was written, in sd",
    advice="generate prepares positions, masks or beams otherwise than the model reads them: compare its "
    "prepare_inputs_for_generation with the library's, and see cached_decode",
)
def generation(probe: Probe) -> Finding:
    """Does generate, greedy and with beams, go by the logits that a plain pass gives?"""
    if not probe.model.can_generate():
        raise DoesNotApply("the model does not generate")
    probe.inside()  # raises where the trained window is too short
    found = {name: _generated(probe, beams) for name, beams in (("greedy", 1), ("beams", BEAMS))}
    worst = max(found, key=lambda name: found[name] if found[name] == found[name] else float("inf"))
    return at_most(found[worst], probe.tolerance, f"two rows, {LENGTH // 2} new tokens; most with {worst}")


def _generated(probe: Probe, beams: int) -> float:
    """How far the logits of the steps of `generate` are from those of a full pass over what it returns."""
    prompt = LENGTH // 2
    tokens = probe.tokens(rows=2, length=prompt)
    with _own_generation_config(probe.model):
        made = probe.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=LENGTH - prompt,
            do_sample=False,
            num_beams=beams,
            num_return_sequences=beams,
            output_logits=True,
            return_dict_in_generate=True,
            disable_compile=True,
        )
    steps = torch.stack(made.logits)  # step x (rows x beams) x V
    written = torch.arange(len(steps), device=probe.device)
    row = torch.arange(len(made.sequences), device=probe.device)[:, None]
    found = steps[written, made.beam_indices[:, : len(steps)] if beams > 1 else row]
    positions = torch.arange(made.sequences.shape[1], device=probe.device)[None]
    expected = probe.logits(made.sequences, positions)[:, prompt - 1 : -1]
    return distance(found, expected)


@contextlib.contextmanager
def _own_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """The model with nothing of its own that ends, forbids or samples tokens."""
    before = model.generation_config
    model.generation_config = GenerationConfig(pad_token_id=0)
    try:
        yield
    finally:
        model.generation_config = before


@check(
    holds="a cache that is cut back and filled again gives the same logits, in sd",
    advice="something beside the cache remembers earlier tokens: speculative decoding and beam search will go wrong",
)
def cropped_cache(probe: Probe) -> Finding:
    """Can a cache be cut back, as speculative decoding does?"""
    kinds = getattr(probe.model.config, "layer_types", None) or []
    if getattr(probe.model.config, "sliding_window", None) is not None or "sliding_attention" in kinds:
        raise DoesNotApply("caches of layers that slide cannot be cut back")
    tokens, other, positions = probe.tokens(), probe.tokens(seed=2), probe.inside()
    half = LENGTH // 2
    cache = DynamicCache(config=probe.model.config)
    probe.logits(tokens[:, :half], positions[:, :half], past_key_values=cache)
    expected = probe.logits(tokens[:, half:], positions[:, half:], past_key_values=cache)
    cache.crop(half - LENGTH)
    probe.logits(other[:, half:], positions[:, half:], past_key_values=cache)
    cache.crop(half - LENGTH)
    found = probe.logits(tokens[:, half:], positions[:, half:], past_key_values=cache)
    return at_most(distance(found, expected), probe.tolerance / 100)
