"""Peaks told without numbers against what torch's allocator gives out, as its profiler sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

import longspan
from longspan.planner.activations import Work, peak_bytes, works_of

Make = Callable[[str], PreTrainedModel]
LENGTH = 64
WORKSPACE = 256 * 1024
"""Bytes that the kernel of sdpa on a processor takes for itself at this length, at most; it is not told."""


def allocated(call: Callable[[], object]) -> int:
    """The most bytes given out at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    del kept
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def both(model: PreTrainedModel, work: Work, length: int = LENGTH) -> tuple[int, int]:
    predicted = peak_bytes(copy.deepcopy(model).to("meta"), length, model.dtype, work)
    tokens = torch.zeros(1, length, dtype=torch.long)
    return predicted, allocated(lambda: work.run(model, tokens))


@pytest.mark.parametrize("training", [False, True])
def test_eager_attention_of_every_family_is_told_to_a_thousandth(tiny_model: Make, family: str, training: bool) -> None:
    predicted, measured = both(tiny_model(family), Work(attention="eager", training=training))
    assert predicted == pytest.approx(measured, rel=1e-3)


@pytest.mark.parametrize("work", [Work(), Work(training=True), Work(training=True, checkpointing=True)], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3", "gpt_neox", "qwen3_moe"])
def test_sdpa_is_told_but_for_what_the_kernel_takes_for_itself(tiny_model: Make, family: str, work: Work) -> None:
    predicted, measured = both(tiny_model(family), work)
    assert measured - WORKSPACE <= predicted <= measured * 1.001


@pytest.mark.parametrize("method", ["coca", "pope", "alibi", "yarn", "dynamic_ntk", "long_rope", "log_n"])
def test_methods_are_counted_by_their_own_code(tiny_model: Make, method: str) -> None:
    model = tiny_model("llama")
    longspan.extend(model, method, target_length=128)
    predicted, measured = both(model, Work(attention="eager", training=True))
    assert predicted == pytest.approx(measured, rel=0.01)


def test_sixteen_bits_are_counted_with_what_stays_in_thirty_two(tiny_model: Make) -> None:
    predicted, measured = both(tiny_model("llama").to(torch.bfloat16), Work(attention="eager"))
    assert predicted == pytest.approx(measured, rel=1e-3)


def test_logits_of_all_tokens_cost_their_own_bytes() -> None:
    from conftest import make_model

    model = make_model("llama", vocab_size=4096, max_position_embeddings=2048)
    (last, _), (every, measured) = both(model, Work()), both(model, Work(all_logits=True))
    assert every == pytest.approx(measured, rel=0.05)
    assert every > last + LENGTH * 4096 * 4 / 2


def test_no_length_is_too_long_to_be_told(tiny_model: Make) -> None:
    outline = tiny_model("llama").to("meta")
    short, long = (peak_bytes(outline, length, torch.float32, Work()) for length in (1 << 10, 1 << 20))
    assert long == pytest.approx(1024 * short, rel=0.01)  # sdpa holds no square of the length


def test_the_outline_stays_as_it_is(tiny_model: Make) -> None:
    outline = tiny_model("gemma2").to("meta")
    attention = outline.config._attn_implementation
    peak_bytes(outline, 64, torch.bfloat16, Work(attention="eager", training=True, checkpointing=True))
    assert (outline.config._attn_implementation, outline.dtype, outline.device.type) == (
        attention, torch.float32, "meta",
    )  # fmt: skip
    assert not outline.training
    assert not outline.is_gradient_checkpointing


def test_a_model_without_sdpa_is_told_with_eager_attention(tiny_model: Make) -> None:
    assert [work.attention for work in works_of(tiny_model("gemma2"))] == ["eager"] * 4
    assert [work.attention for work in works_of(tiny_model("llama"))] == ["sdpa", "sdpa", "eager", "sdpa", "sdpa"]
