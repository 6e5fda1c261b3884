"""Beginnings that are read once give the answers of prompts that are read afresh, or are not used at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from conftest import make_model
from longspan.data.tokenizer import train_tokenizer
from longspan.evaluate.answering import answer_all, shares
from longspan.evaluate.frame import Frame
from longspan.evaluate.prefix import can_share, reading_in_turn, reading_order
from longspan.evaluate.task import Place, Sample
from longspan.evaluate.tasks import all_tasks
from longspan.evaluate.words import paragraph
from longspan.surgery import extend

METHODS = ("none", "coca+yarn", "alibi")
MORE = ("yarn", "log_n", "self_extend", "dual_chunk")
"""Methods that read a cache as one of METHODS does, and bands, which take long."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    import numpy as np

    prose = [paragraph(np.random.default_rng(number)) for number in range(100)]
    return train_tokenizer(prose, 400, tmp_path_factory.mktemp("tokenizer") / "bpe")


def grid(tokenizer: PreTrainedTokenizerFast, name: str = "needle") -> Sequence[Sample]:
    frame = Frame(tokenizer, name)
    return [all_tasks()[name].sample(frame, Place(0, 300, depth, 0)) for depth in (0.0, 0.5, 1.0)]


def model_of(tokenizer: PreTrainedTokenizerFast, family: str = "llama", **settings: object) -> PreTrainedModel:
    return make_model(family, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, **settings)


@pytest.mark.parametrize("methods", [*METHODS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_answers_are_those_of_prompts_read_afresh(tokenizer: PreTrainedTokenizerFast, methods: str) -> None:
    model, samples = model_of(tokenizer), grid(tokenizer)
    extend(model, methods, original_length=64, target_length=512)
    assert can_share(model)
    for decoding in ("auto", "generate"):
        afresh, shared = (
            answer_all(model, tokenizer, all_tasks()["needle"], samples, decoding=decoding, reuse=reuse)
            for reuse in (False, True)
        )
        assert [answer.text for answer in shared] == [answer.text for answer in afresh]
        assert [answer.nll for answer in shared] == pytest.approx([answer.nll for answer in afresh], abs=2e-4)


def test_a_depth_grid_reads_its_common_text_once(tokenizer: PreTrainedTokenizerFast) -> None:
    model, samples = model_of(tokenizer), grid(tokenizer)
    with torch.no_grad(), reading_in_turn(model, 300) as reader:
        for number in reading_order(samples):
            reader.force(samples[number])
    rows = {tuple([*sample.prompt_ids, *sample.answer_ids][:end]) for sample in samples for end in range(1, 301)}
    # the nodes of the tree of beginnings, and the last token of a prompt again where its answer alone is new
    assert len(rows) <= reader.read <= len(rows) + len(samples)
    assert reader.read < 0.8 * 300 * len(samples)


def test_a_model_that_never_stops_is_cut_at_the_tokens_of_the_task(tokenizer: PreTrainedTokenizerFast) -> None:
    model, samples, task = model_of(tokenizer), grid(tokenizer), all_tasks()["needle"]
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    made = []
    generate = model.generate
    model.generate = lambda *inputs, **settings: made.append(generate(*inputs, **settings)) or made[-1]
    for reuse in (False, True):
        answer_all(model, tokenizer, task, samples, decoding="generate", reuse=reuse)
    assert [rows.shape[1] for rows in made] == [
        max(len(sample.prompt_ids) + task.new_tokens(sample) for sample in samples)
    ] * len(made)


def test_on_a_processor_long_prompts_are_read_in_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    model = model_of(tokenizer)
    assert not shares(model, 512, None, None)
    assert shares(model, 1024, None, None)
    extend(model, "alibi", original_length=64, target_length=512)  # needs a mask
    assert not shares(model, 1024, None, None)
    assert shares(model, 1024, None, True)


@pytest.mark.parametrize("methods", ["dynamic_ntk", "coca+dynamic_ntk", "select_merge(region=4,top=8,merge=2)"])
def test_nothing_is_shared_where_frequencies_follow_the_length_or_queries_choose_what_is_seen(
    tokenizer: PreTrainedTokenizerFast, methods: str
) -> None:
    model = model_of(tokenizer)
    extend(model, methods, original_length=64, target_length=512)
    assert not can_share(model)
    assert not shares(model, 300, None, True)


def test_nothing_is_shared_where_transformers_scales_by_length_or_layers_forget(
    tokenizer: PreTrainedTokenizerFast, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    assert not can_share(model_of(tokenizer, rope_parameters=rope))
    assert not can_share(tiny_model("gemma2"))
    assert can_share(tiny_model("llama"))
