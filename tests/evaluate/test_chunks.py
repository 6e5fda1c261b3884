"""Reading in chunks against one forward of transformers' own over everything."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

import longspan as ls
from longspan.evaluate import forward
from longspan.evaluate.answering import _generate
from longspan.evaluate.chunks import attending_to_cache, hidden_in_chunks, saves_memory, takes_chunks
from longspan.evaluate.task import Sample
from longspan.evaluate.tasks.passkey import Passkey

LENGTH = 150
ROWS = torch.randint(3, 128, (2, LENGTH), generator=torch.Generator().manual_seed(0))
ONE_PASS = {"gemma2": "soft-capped", "gptj": "a forward older than attention functions"}


@torch.no_grad()
def in_chunks(model: PreTrainedModel, size: int) -> torch.Tensor:
    with attending_to_cache(model, LENGTH):
        return torch.cat([hidden for _, hidden in hidden_in_chunks(model, ROWS, size)], dim=1)


@torch.no_grad()
def in_one(model: PreTrainedModel) -> torch.Tensor:
    return model.get_decoder()(input_ids=ROWS, use_cache=False).last_hidden_state


@pytest.mark.parametrize("size", [7, 64, LENGTH])
def test_chunks_of_any_size_equal_one_forward(family: str, size: int, tiny_model: Callable[[str], PreTrainedModel]):
    model = tiny_model(family)
    assert takes_chunks(model) == (family not in ONE_PASS)
    if takes_chunks(model):
        expected = in_one(model)
        torch.testing.assert_close(in_chunks(model, size), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        assert torch.equal(in_one(model), expected)  # nothing stays behind


@torch.no_grad()
def test_behind_context_that_is_only_stored_stands_what_one_forward_gives(
    family: str, tiny_model: Callable[[str], PreTrainedModel]
):
    model = tiny_model(family)
    if takes_chunks(model):
        expected = in_one(model)[:, 100:]
        with attending_to_cache(model, LENGTH):
            parts = list(hidden_in_chunks(model, ROWS, 64, first=100))
        assert [start for start, _ in parts] == [100]
        torch.testing.assert_close(parts[0][1], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_the_last_layer_makes_nothing_of_stored_context(
    tiny_model: Callable[[str], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
):
    model = ls.extend(tiny_model("llama"), "yarn", target_length=256).model
    row, column = torch.tensor([0, 1, 1]), torch.tensor([101, 120, 149])
    expected = forward.score(model, ROWS, row, column)
    monkeypatch.setattr(forward, "_LONG", LENGTH)
    tokens = {"first": 0, "last": 0}
    for place, layer in (("first", 0), ("last", -1)):

        def count(_: object, inputs: tuple[torch.Tensor], __: object, place: str = place) -> None:
            tokens[place] += inputs[0].shape[1]

        model.get_decoder().layers[layer].mlp.register_forward_hook(count)
    found = forward.score(model, ROWS, row, column)
    assert tokens == {"first": LENGTH, "last": LENGTH - 100}
    torch.testing.assert_close(found.nll, expected.nll, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.choice, expected.choice)


@pytest.mark.parametrize(
    "methods",
    ["dynamic_ntk(factor=4)", "coca", "coca+dynamic_ntk(factor=4)", "ntk+log_n", "pope", "long_rope(start_tokens=4)"],
)
def test_chunks_equal_one_forward_under_methods(methods: str, tiny_model: Callable[[str], PreTrainedModel]):
    model = ls.extend(tiny_model("llama"), methods, target_length=256).model
    assert takes_chunks(model)
    expected = in_one(model)
    torch.testing.assert_close(in_chunks(model, 32), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("methods", ["alibi", "streaming", "self_extend(neighbors=16, group=4)"])
def test_methods_that_need_a_mask_read_in_one_pass(methods: str, tiny_model: Callable[[str], PreTrainedModel]):
    model = ls.extend(tiny_model("llama"), methods, target_length=256).model
    assert not takes_chunks(model)


def test_frequencies_of_transformers_that_follow_the_length_read_in_one_pass(
    tiny_model: Callable[[str], PreTrainedModel],
):
    model = tiny_model("llama")
    config = copy.deepcopy(model.config)
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not takes_chunks(type(model)(config))


@torch.no_grad()
def test_long_rows_are_scored_in_chunks_as_in_one_forward(
    tiny_model: Callable[[str], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
):
    model = tiny_model("qwen3")
    row, column = torch.tensor([1, 0, 0, 1]), torch.tensor([149, 1, 64, 65])
    expected = forward.score(model, ROWS, row, column)
    monkeypatch.setitem(forward._TOKENS_PER_BATCH, "cpu", 32)
    lengths = []
    hook = model.get_decoder().register_forward_hook(lambda _, __, out: lengths.append(out[0].shape[1]))
    found = forward.score(model, ROWS, row, column)
    hook.remove()
    assert lengths == [32, 32, 32, 32, 22]
    torch.testing.assert_close(found.nll, expected.nll, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.choice, expected.choice)


def test_no_mask_is_made_and_a_given_one_is_refused(tiny_model: Callable[[str], PreTrainedModel]):
    model = tiny_model("llama")
    mask = torch.ones(2, 1, LENGTH, LENGTH, dtype=torch.bool)
    with attending_to_cache(model, LENGTH), pytest.raises(AssertionError, match="are full"):
        model(ROWS, attention_mask=mask)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("methods", [None, "dynamic_ntk(factor=4)"])
def test_generation_after_chunks_gives_the_same_tokens(
    methods: str | None, tiny_model: Callable[[str], PreTrainedModel]
):
    model = tiny_model("llama")
    if methods:
        ls.extend(model, methods, target_length=256)
    settings = {"attention_mask": torch.ones_like(ROWS), "max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ROWS, **settings)
    with attending_to_cache(model, LENGTH):
        found = model.generate(ROWS, **settings, prefill_chunk_size=32)
    assert torch.equal(found, expected)


def test_passkey_answers_are_generated_from_prompts_in_chunks(
    tiny_model: Callable[[str], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
):
    model = tiny_model("llama")
    monkeypatch.setitem(forward._TOKENS_PER_BATCH, "cpu", 32)
    assert forward.chunk_size(model, 128) is None
    assert forward.chunk_size(model, 129) == 32
    given = {}

    def generate(prompts: torch.Tensor, **settings: object) -> torch.Tensor:
        given[prompts.shape[1]] = settings["prefill_chunk_size"], model.config._attn_implementation
        return torch.cat((prompts, prompts[:, :1]), dim=1)

    monkeypatch.setattr(model, "generate", generate)
    samples = [Sample(prompt_ids=[5] * length, answer_ids=[6], references=("12345",)) for length in (128, 129)]
    _generate(model, NoText(), Passkey(), samples, rows=1)
    assert given == {128: (None, "sdpa"), 129: (32, "longspan_cached")}


def test_a_cache_larger_than_one_pass_is_not_made(tiny_model: Callable[[str], PreTrainedModel]):
    """Llama-2-7B keeps 2 x 32 x 32 x 128 numbers a token; one layer of one pass holds 3 x 11008 + 4 x 4096."""
    model = tiny_model("llama")
    sizes = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096, "intermediate_size": 11008}
    vars(model.config).update(sizes, num_key_value_heads=32, head_dim=128)
    assert not saves_memory(model)
    vars(model.config).update(num_key_value_heads=2)  # 16,384 numbers against 49,408
    assert saves_memory(model)


class NoText:
    """A tokenizer that decodes to nothing."""

    pad_token_id = 0
    eos_token_id = 0

    def decode(self, answer: torch.Tensor, **_: object) -> str:
        return ""
