"""Select-and-merge in models: chunks, caches and padding give what one pass over each row alone gives."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer

import longspan as ls
from conftest import make_model
from longspan.errors import FamilyError, MethodError
from longspan.registry import parse_methods
from surgery_methods import ids, logits
from tolerances import LOGITS, logit_distance

SMALL = "select_merge(region=2,top=8,merge=2)"
"""Sixteen tokens attend densely, four make a group."""
POSITIONS = ("all", "selected", "selected_absolute")
GREEDY = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def extended(methods: str = SMALL, family: str = "llama", **settings: object) -> PreTrainedModel:
    model = make_model(family, **settings).double()  # in which no two regions are equally good
    ls.extend(model, methods, target_length=256)
    return model


def spelled(**settings: object) -> str:
    return SMALL[:-1] + "".join(f",{name}={value!r}" for name, value in settings.items()) + ")"


@torch.no_grad()
def read(model: PreTrainedModel, tokens: Tensor, pieces: list[int], cache: DynamicCache | None = None) -> Tensor:
    """Logits of tokens that are read in pieces, the rest one by one."""
    cache = DynamicCache(config=model.config) if cache is None else cache
    pieces = [*pieces, *[1] * (tokens.shape[1] - sum(pieces))]
    return torch.cat([model(part, past_key_values=cache).logits for part in tokens.split(pieces, dim=1)], dim=1)


@pytest.mark.parametrize("before", ["", "coca+", "pope+yarn+", "crd_ntk+", "log_n+"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_decoding_and_chunks_equal_one_pass(positions: str, before: str) -> None:
    model = extended(before + spelled(positions=positions))
    tokens = ids(length=41)
    expected = logits(model, tokens)
    for pieces in ([], [30, 1, 6], [17, 16, 8], [41]):
        assert logit_distance(read(model, tokens, pieces), expected) < 1e-9


@settings(max_examples=8, deadline=None)
@given(
    pieces=st.lists(st.integers(1, 25), max_size=4),
    length=st.integers(1, 55),
    route_heads=st.sampled_from(["query", "kv"]),
    eligible=st.sampled_from(["draft", "before_group"]),
    rating=st.sampled_from(["mean", "bound"]),
    follow=st.booleans(),
    region=st.sampled_from([1, 3]),
    local=st.integers(0, 3),
)
def test_any_chunking_equals_one_pass(
    pieces: list[int], length: int, route_heads: str, eligible: str, rating: str, follow: bool, region: int, local: int
) -> None:
    choice = {"route_heads": route_heads, "eligible": eligible, "rating": rating, "follow": follow}
    method = ls.SelectMerge(region=region, top=6, merge=3, local=local, sinks=(3 - local) // 2, **choice)
    model = make_model("llama").double()
    ls.extend(model, method)
    while sum(pieces) > length:
        pieces = pieces[1:]
    tokens = ids(length=length)
    assert logit_distance(read(model, tokens, pieces), logits(model, tokens)) < 1e-9


@pytest.mark.parametrize("positions", POSITIONS)
def test_padding_and_batch_mates_change_no_row(positions: str) -> None:
    model = extended(spelled(positions=positions))
    long, short = ids(rows=1, length=60), ids(rows=1, length=47, seed=1)
    pads = torch.full((1, 13), 5)
    for left in (True, False):
        tokens = torch.cat((long, torch.cat((pads, short) if left else (short, pads), dim=1)))
        mask = torch.ones_like(tokens)
        mask[1, slice(None, 13) if left else slice(47, None)] = 0
        given = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        found = logits(model, tokens, **given)
        assert logit_distance(found[:1], logits(model, long)) < 1e-9
        alone = logits(model, short)
        assert logit_distance(found[1:, 13:] if left else found[1:, :47], alone) < 1e-9


@torch.no_grad()
def test_no_mask_of_all_pairs_is_made_where_the_front_does_not_hold_all() -> None:
    model, tokens, shapes = extended(), ids(length=40), []
    model.base_model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(getattr(kwargs["attention_mask"], "shape", None)), with_kwargs=True
    )
    mask = torch.ones_like(tokens)
    mask[1, :7] = 0
    for padding in (None, torch.ones_like(tokens), mask):
        model(tokens, attention_mask=padding, use_cache=False)
    assert shapes == [None, (2, 1, 1, 40), (2, 1, 1, 40)]


def test_undoing_takes_everything_back_to_the_bit() -> None:
    model, tokens = make_model("llama"), ids(length=40)
    mask = torch.ones_like(tokens)
    mask[1, :7] = 0
    before = logits(model, tokens, attention_mask=mask)
    with ls.extend(model, SMALL):
        assert logit_distance(logits(model, tokens, attention_mask=mask)[:, 7:], before[:, 7:]) > 1e-3
    assert torch.equal(logits(model, tokens, attention_mask=mask), before)
    assert not model.base_model._forward_pre_hooks


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_generation_of_a_padded_batch_gives_what_each_row_gives(kernel: str) -> None:
    model = extended()
    model.set_attn_implementation(kernel)
    long, short = ids(rows=1, length=41), ids(rows=1, length=22, seed=1)
    tokens = torch.cat((long, torch.cat((torch.zeros(1, 19, dtype=torch.long), short), dim=1)))
    mask = torch.ones_like(tokens)
    mask[1, :19] = 0
    found = model.generate(tokens, attention_mask=mask, **GREEDY)
    for row, prompt in ((0, long), (1, short)):
        assert torch.equal(found[row, 41:], model.generate(prompt, **GREEDY)[0, prompt.shape[1] :])


def test_generation_follows_the_logits_of_full_passes() -> None:
    model, tokens = extended(), ids(rows=1, length=30)
    found = model.generate(tokens, **GREEDY)
    assert torch.equal(logits(model, found)[:, 29:-1].argmax(-1), found[:, 30:])


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_are_scored_as_full_passes_score_them(settings: dict[str, int]) -> None:
    model, tokens = extended(), ids(rows=2, length=30)
    found = model.generate(tokens, **{**GREEDY, **settings}, return_dict_in_generate=True, output_scores=True)
    scores = logits(model, found.sequences).log_softmax(-1)[:, 29:-1]
    of_tokens = scores.gather(-1, found.sequences[:, 30:, None])[..., 0].sum(1) / GREEDY["max_new_tokens"]
    assert (of_tokens - found.sequences_scores).abs().max() < 1e-5


def test_a_cache_is_cut_back_reordered_repeated_and_copied() -> None:
    model, first, second = extended(), ids(length=50), ids(length=20, seed=1)
    cache = DynamicCache(config=model.config)
    read(model, first, [50], cache)
    read(model, second[:, :1], [1], cache)
    cache.crop(-4)  # into the group before the last one
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 2]))
    found = read(model, second, [3, 5], copy.deepcopy(cache))
    whole = torch.cat((first.flip(0)[:, :47], second), dim=1)
    assert logit_distance(found, logits(model, whole)[:, 47:]) < 1e-9


def test_a_cache_that_lacks_the_queries_is_refused() -> None:
    model, tokens = extended(), ids(length=60)
    cache = DynamicCache(config=model.config)
    read(model, tokens, [60], cache)
    cache.crop(-20)
    with pytest.raises(MethodError, match="does not hold the queries that choose"):
        read(model, tokens[:, :20], [20], cache)


@torch.no_grad()
def test_a_cache_of_fixed_size_serves_and_others_are_refused() -> None:
    model, tokens = extended(), ids(length=60)
    cache = StaticCache(config=model.config, max_cache_len=80)
    assert logit_distance(read(model, tokens, [37, 10], cache), logits(model, tokens)) < 1e-9
    cache = DynamicCache(config=model.config)
    cache.layers[0] = DynamicSlidingWindowLayer(sliding_window=8)
    with pytest.raises(MethodError, match="not in a DynamicSlidingWindowLayer: use transformers' DynamicCache"):
        model(tokens, past_key_values=cache)


@torch.no_grad()
def test_room_of_a_cache_that_nothing_fills_yet_is_never_read() -> None:
    model, tokens = extended(spelled(local=1)), ids(length=60)
    cache = StaticCache(config=model.config, max_cache_len=80)
    first = read(model, tokens[:, :37], [37], cache)
    for layer in cache.layers:
        layer.keys[:, :, 37:] = layer.values[:, :, 37:] = torch.nan
    found = torch.cat((first, read(model, tokens[:, 37:], [10], cache)), dim=1)
    assert logit_distance(found, logits(model, tokens)) < 1e-9


@torch.no_grad()
def test_packed_documents_and_padding_between_tokens_are_refused() -> None:
    model, tokens = extended(), ids(rows=1, length=40)
    with pytest.raises(MethodError, match="packed documents and other masks"):
        model(tokens, position_ids=torch.arange(20).repeat(2)[None], use_cache=False)
    mask = torch.ones_like(tokens)
    mask[0, 20] = 0
    with pytest.raises(MethodError, match="in one piece"):
        model(tokens, attention_mask=mask)


@torch.no_grad()
def test_routing_that_looks_ahead_reads_in_one_pass_and_does_not_decode() -> None:
    model, tokens = extended(spelled(routing="lookahead")), ids(length=40)
    shifted = extended()
    assert logit_distance(logits(model, tokens), logits(shifted, tokens)) > 0.01
    with pytest.raises(MethodError, match="cannot decode beyond 16 tokens"):
        model.generate(tokens, **GREEDY)


def test_a_query_that_chooses_for_itself_alone_does_not_look_ahead_and_decodes() -> None:
    alone = "select_merge(region=1,top=16,merge=1,local=5,sinks=2,routing='lookahead')"
    model, tokens = extended(alone), ids(length=40)
    expected = logits(model, tokens)
    assert "looks ahead" not in ls.plan(make_model("llama"), alone).changes[0].detail
    for pieces in ([], [30, 1, 5]):
        assert logit_distance(read(model, tokens, pieces), expected) < 1e-9
    tokens[:, 30:] = 5
    assert torch.equal(logits(model, tokens)[:, :30], expected[:, :30])


@pytest.mark.parametrize("positions", POSITIONS)
def test_no_logit_moves_with_a_later_token_by_a_bit(positions: str) -> None:
    model, tokens = extended(spelled(positions=positions), num_hidden_layers=3), ids(rows=1, length=44)
    expected = logits(model, tokens)
    for place in (16, 17, 19, 20, 30, 43):
        other = tokens.clone()
        other[:, place:] = (other[:, place:] + 7) % 128
        assert torch.equal(logits(model, other)[:, :place], expected[:, :place])


def test_a_window_that_the_front_holds_is_attended_to_as_without_the_method() -> None:
    model, other = extended(), extended("rope()")
    assert logit_distance(logits(model, ids(length=16)), logits(other, ids(length=16))) < 1e-12
    assert logit_distance(logits(model, ids(length=21)), logits(other, ids(length=21))) > 1e-3


def test_every_family_decodes_with_it(family: str) -> None:
    model = make_model(family)
    ls.extend(model, SMALL)
    tokens = ids(length=40)
    assert logit_distance(read(model, tokens, [25]), logits(model, tokens)) < LOGITS


def test_in_low_precision_it_stays_near(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = extended(), ids(length=60)
    expected = logits(model, tokens)
    assert logit_distance(logits(model.float(), tokens).double(), expected) < LOGITS
    assert logits(model.bfloat16(), tokens).isfinite().all()


@pytest.mark.parametrize("positions", POSITIONS)
def test_gradients_of_the_weights_equal_those_through_the_reference(
    positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = spelled(positions=positions)
    model, slow = extended("coca+" + method, num_hidden_layers=1), extended("coca+" + method, num_hidden_layers=1)
    layer, found = slow.base_model.layers[0].self_attn, {}
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(layer, name).register_forward_hook(lambda m, a, out, name=name: found.update({name: out}))

    def literal(module: torch.nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        q, k, v = (found[name].unflatten(2, (-1, 8)).transpose(1, 2) for name in ("q_proj", "k_proj", "v_proj"))
        window = slow.base_model.rotary_emb.window
        output = ls.reference_attention(q, k, v, methods=parse_methods("coca+" + method), window=window)
        return (output.transpose(1, 2).flatten(2),)

    layer.o_proj.register_forward_pre_hook(literal)
    tokens = ids(rows=1, length=27)
    for one in (model, slow):
        one.train()(tokens, labels=tokens, use_cache=False).loss.backward()
    for (name, fast), reference in zip(model.named_parameters(), slow.parameters(), strict=True):
        assert (fast.grad - reference.grad).abs().max() < 1e-10, name
        assert fast.grad.any(), name


def test_the_plan_says_what_is_seen_and_when_the_method_has_no_effect() -> None:
    model = make_model("llama")
    plan = ls.plan(model, SMALL)
    assert str(plan.changes[0]) == (
        "model.layers.0.self_attn.selection <- SelectMerge (16 keys a query, all of them up to 16 tokens)"
    )
    assert "16 keys a query (the 4 before its group in any case)" in ls.plan(model, spelled(local=2)).changes[0].detail
    assert "(the first 2 and the 4 before its" in ls.plan(model, spelled(local=2, sinks=1)).changes[0].detail
    assert "looks ahead" in ls.plan(model, spelled(routing="lookahead")).changes[0].detail
    assert "without effect" in ls.plan(model, "select_merge").changes[0].detail
    with pytest.raises(FamilyError, match="none sees far enough for SelectMerge to act"):
        ls.plan(make_model("mistral", sliding_window=8), SMALL)
