"""Perplexity against a naive loop: one window at a time, full logits, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from longspan.errors import DataError, FamilyError
from longspan.evaluate import document_nll, make_protocol, paired_difference, perplexity
from longspan.evaluate import forward as forward_module
from longspan.scores import Score

COLUMNS = {"run": "r", "method": "rope", "model_name": "tiny", "train_length": 64, "progress": False}
Tiny = Callable[[str], PreTrainedModel]


def documents(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, 128, (size,), generator=generator) for size in sizes]


def naive(model: PreTrainedModel, ids: list[torch.Tensor], length: int, stride: int, first: int) -> list[list[float]]:
    """NLL of every scored token of each document, as the protocol says it."""
    result = []
    for document in ids:
        losses: dict[int, float] = {}
        starts = list(range(0, len(document) - length + 2, stride))
        if starts[-1] != len(document) - length + 1:
            starts.append(len(document) - length + 1)
        for start in starts:
            window = [1, *document[start : start + length - 1].tolist()]
            with torch.no_grad():
                logits = model(torch.tensor([window])).logits[0].double()
            for place in range(1, length):
                index = start + place - 1
                if index >= first and index not in losses:
                    losses[index] = -torch.log_softmax(logits[place - 1], dim=0)[window[place]].item()
        result.append([losses[index] for index in sorted(losses)])
    return result


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("variant", ["all", "matched"])
def test_it_equals_a_naive_loop(tiny_model: Tiny, name: str, variant: str) -> None:
    model = tiny_model(name)
    ids = documents(101, 77, 60)
    records = perplexity(model, ids, lengths=[13, 47], stride=7, variant=variant, batch_size=3, **COLUMNS)
    assert [(r.metric, r.length) for r in records] == [(m, n) for n in (13, 47) for m in ("perplexity", "nll")]
    for record in records[1::2]:
        losses = naive(model, ids, record.length, 7, 0 if variant == "all" else 47)
        total, count = sum(map(sum, losses)), sum(map(len, losses))
        assert record.n == count == (238 if variant == "all" else 54 + 30 + 13)
        assert record.value == pytest.approx(total / count, abs=1e-5)
    for ppl, nll in zip(records[::2], records[1::2], strict=True):
        assert ppl.value == pytest.approx(math.exp(nll.value))
        assert ppl.low < ppl.value < ppl.high
        assert (ppl.task, ppl.run, ppl.method, ppl.model, ppl.train_length) == ("perplexity", "r", "rope", "tiny", 64)


def test_the_default_stride_is_a_quarter_of_each_window(tiny_model: Tiny) -> None:
    model = tiny_model("llama")
    ids = documents(90)
    records = perplexity(model, ids, lengths=[16, 33], **COLUMNS)
    for record, stride in ((records[1], 4), (records[3], 8)):
        losses = naive(model, ids, record.length, stride, 33)[0]
        assert record.value == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_one_document_may_be_given_bare_and_has_no_interval(tiny_model: Tiny) -> None:
    (document,) = documents(90)
    records = perplexity(tiny_model("llama"), document, lengths=[16], **COLUMNS)
    assert (records[0].low, records[0].high) == (None, None)
    assert records[0].n == 90 - 16


def test_separate_calls_with_one_matched_from_give_what_one_call_gives(tiny_model: Tiny) -> None:
    model, ids = tiny_model("llama"), documents(120, 70, 90)
    together = perplexity(model, ids, lengths=[16, 64], max_targets=21, **COLUMNS)
    apart = [
        record
        for length in (16, 64)
        for record in perplexity(model, ids, lengths=[length], matched_from=64, max_targets=21, **COLUMNS)
    ]
    assert [(r.value, r.low, r.high, r.n) for r in together] == [(r.value, r.low, r.high, r.n) for r in apart]
    assert {r.n for r in together} == {42}  # the document of 70 tokens has fewer than 64 + 16


def test_the_batch_size_does_not_change_the_result(tiny_model: Tiny) -> None:
    model, ids = tiny_model("llama"), documents(130, 90)
    values = [perplexity(model, ids, lengths=[29], batch_size=size, **COLUMNS)[1].value for size in (1, 4, 64)]
    assert values == pytest.approx([values[0]] * 3, abs=1e-6)


def test_bits_per_byte_count_the_bytes_of_the_scored_tokens(tiny_model: Tiny) -> None:
    model, ids = tiny_model("llama"), documents(80, 90)
    sizes = torch.arange(128) % 5
    records = perplexity(model, ids, lengths=[16], stride=4, token_bytes=sizes, **COLUMNS)
    losses = naive(model, ids, 16, 4, 16)
    expected = sum(map(sum, losses)) / math.log(2) / sum(int(sizes[document[16:]].sum()) for document in ids)
    assert records[2].metric == "bits_per_byte"
    assert records[2].value == pytest.approx(expected, rel=1e-5)


def test_logits_never_exist_for_more_positions_than_a_chunk(tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny_model("llama"), documents(300)
    whole = perplexity(model, ids, lengths=[128], variant="all", **COLUMNS)
    monkeypatch.setitem(forward_module._LOGIT_ELEMENTS, "cpu", 128 * 10)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.numel()))
    chunked = perplexity(model, ids, lengths=[128], variant="all", **COLUMNS)
    assert max(seen) == 128 * 10
    assert sum(seen) == 128 * 300
    assert chunked[1].value == pytest.approx(whole[1].value, abs=1e-6)


def test_every_window_is_a_fresh_forward_without_cache_mask_or_positions(tiny_model: Tiny) -> None:
    model, ids = tiny_model("llama"), documents(90)
    seen: list[dict] = []
    model.model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs), with_kwargs=True)
    perplexity(model, ids, lengths=[16], **COLUMNS)
    for kwargs in seen:
        assert kwargs["use_cache"] is False
        assert not {"attention_mask", "position_ids", "past_key_values"} & set(kwargs)
        assert kwargs["input_ids"].shape[1] == 16
        assert (kwargs["input_ids"][:, 0] == 1).all()


def test_dropout_is_off_and_the_training_flag_is_restored(tiny_model: Tiny) -> None:
    model, ids = tiny_model("llama"), documents(90)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    quiet = perplexity(model.eval(), ids, lengths=[16], **COLUMNS)
    loud = perplexity(model.train(), ids, lengths=[16], **COLUMNS)
    assert quiet[1].value == loud[1].value
    assert model.training


def test_a_loss_that_is_no_number_is_kept_as_null(tiny_model: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("llama")
    torch.nn.init.constant_(model.model.norm.weight, math.nan)
    records = perplexity(model, documents(90, 80), lengths=[16], **COLUMNS)
    assert [(r.value, r.low, r.high) for r in records] == [(None, None, None)] * 2
    assert "kept as null" in caplog.text


def test_the_score_of_each_document_adds_up_to_the_record(tiny_model: Tiny) -> None:
    model = tiny_model("llama")
    ids = [torch.randint(3, 128, (size,), generator=torch.Generator().manual_seed(size)) for size in (60, 90, 41)]
    scores: list[Score] = []
    records = perplexity(model, ids, lengths=[16, 32], on_scores=scores.extend, progress=False)
    nll = {record.length: record.value for record in records if record.metric == "nll"}
    for length in (16, 32):
        mine = [score for score in scores if score.length == length]
        mean = sum(score.values["nll"] * score.weight for score in mine) / sum(score.weight for score in mine)
        assert mean == pytest.approx(nll[length])
        assert [score.weight for score in mine] == [60 - 32, 90 - 32, 41 - 32]
    # matched targets: the same text at both lengths
    names = {length: [score.sample for score in scores if score.length == length] for length in (16, 32)}
    assert names[16] == names[32]


def test_sums_per_document_allow_paired_differences(tiny_model: Tiny) -> None:
    first, second, ids = tiny_model("llama"), tiny_model("qwen2"), documents(101, 77, 19, 60)
    protocol = make_protocol([16], 4, "matched", None, None)
    sums = [document_nll(m, ids, length=16, protocol=protocol, progress=False) for m in (first, second)]
    assert sums[0].documents == (0, 1, 3)
    assert sums[0].tokens.tolist() == [85, 61, 44]
    assert sums[0].nll == pytest.approx([sum(part) for part in naive(first, [ids[i] for i in (0, 1, 3)], 16, 4, 16)])
    difference = paired_difference(*sums)
    assert difference.value == pytest.approx(sums[0].mean - sums[1].mean)
    assert difference.low <= difference.value <= difference.high
    with pytest.raises(DataError, match="different targets"):
        paired_difference(sums[0], document_nll(second, ids[:2], length=16, protocol=protocol, progress=False))


def test_text_shorter_than_the_window_is_named(tiny_model: Tiny) -> None:
    with pytest.raises(DataError, match="the longest has 70 tokens and 80 are needed"):
        perplexity(tiny_model("llama"), documents(70, 50), lengths=[16, 64], **COLUMNS)


def test_a_model_without_bos_must_be_given_one(tiny_model: Tiny) -> None:
    model = tiny_model("llama")
    model.config.bos_token_id = None
    with pytest.raises(DataError, match="bos_id"):
        perplexity(model, documents(90), lengths=[16], **COLUMNS)
    assert perplexity(model, documents(90), lengths=[16], bos_id=1, **COLUMNS)[0].value
    with pytest.raises(DataError, match="outside the model's vocabulary"):
        perplexity(model, documents(90), lengths=[16], bos_id=128, **COLUMNS)


def test_models_that_change_their_logits_are_refused(tiny_model: Tiny) -> None:
    model = tiny_model("llama")
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(FamilyError, match="softcapping"):
        perplexity(model, documents(90), lengths=[16], **COLUMNS)


def test_columns_are_read_from_a_model_that_names_nothing(tiny_model: Tiny) -> None:
    record = perplexity(tiny_model("llama"), documents(90), lengths=[16], progress=False)[0]
    assert (record.method, record.train_length, record.model, record.seed) == ("rope", 64, "llama", None)
