"""The passkey prompt: exact length, public words, right depth, any tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from longspan.data import passkey as template
from longspan.data.passkey import PasskeyTemplate, passkey_sample, random_key
from longspan.errors import LengthError


@pytest.fixture(scope="module")
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """No BOS, and digits merged: `123` may be one token, and how a key is cut differs from key to key."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    numbers = " ".join(str(number) for number in np.random.default_rng(0).integers(10000, 99999, 2000))
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator([numbers, template.TASK * 50, " ".join(template.FILLER) * 50], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.fixture(params=["single digits", "merged digits"])
def any_tokenizer(
    request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast, merging_tokenizer: PreTrainedTokenizerFast
) -> PreTrainedTokenizerFast:
    return tokenizer if request.param == "single digits" else merging_tokenizer


@pytest.mark.parametrize("length", [256, 333, 500, 1021])
def test_bos_prompt_and_answer_have_exactly_the_length(any_tokenizer: PreTrainedTokenizerFast, length: int) -> None:
    for depth in (0, 0.33, 0.5, 1):
        for key in (10000, 38291, 99999):
            sample = passkey_sample(any_tokenizer, length, depth, key)
            assert len(sample.prompt_ids) + len(sample.answer_ids) == length


def test_the_prompt_reads_like_the_public_template(any_tokenizer: PreTrainedTokenizerFast) -> None:
    sample = passkey_sample(any_tokenizer, 400, 0.5, 38291)
    text = any_tokenizer.decode(sample.prompt_ids, skip_special_tokens=True)
    task, before, key_sentence, after, question = text.split("\n")
    assert task == template.TASK
    assert key_sentence == "The pass key is 38291. Remember it. 38291 is the pass key."
    assert question.startswith("What is the pass key? The pass key is")
    assert (any_tokenizer.decode(sample.prompt_ids + sample.answer_ids)).endswith("The pass key is 38291")
    assert before.startswith(
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
    )
    assert before.endswith(".")
    assert before.count(".") > 3
    cycle = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. " * 20
    assert after in cycle


def test_only_the_last_sentence_may_be_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = {sentence.rstrip(".") for sentence in template.FILLER}
    for length in range(300, 312):
        text = tokenizer.decode(passkey_sample(tokenizer, length, 0.4, 12345).prompt_ids, skip_special_tokens=True)
        _, before, _, after, _ = text.split("\n")
        sentences = re.split(r"\. ?", f"{before} {after}")
        assert set(sentences[:-1]) <= whole


def test_the_answer_is_the_key_and_begins_where_the_prompt_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    sample = passkey_sample(tokenizer, 300, 0.5, 40817)
    assert tokenizer.decode(sample.answer_ids).strip() == "40817"
    assert tokenizer.decode(sample.prompt_ids).endswith("The pass key is")
    assert sample.prompt_ids[0] == tokenizer.bos_token_id
    assert sample.prompt_ids.count(tokenizer.bos_token_id) == 1


def filler_around_key(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> tuple[int, int]:
    """Characters of filler before the key sentence, and after it."""
    _, before, _, after, _ = tokenizer.decode(ids, skip_special_tokens=True).split("\n")
    return len(before), len(after)


@pytest.mark.parametrize("filler", ["template", "text"])
def test_depth_0_is_right_after_the_task_and_depth_1_right_before_the_question(
    tokenizer: PreTrainedTokenizerFast, filler: str
) -> None:
    tokens = tokenizer("stone lamp " * 600, add_special_tokens=False)["input_ids"]
    before_and_after = {}
    for depth in (0, 0.25, 1):
        sample = passkey_sample(tokenizer, 600, depth, 55555, "template" if filler == "template" else tokens)
        before_and_after[depth] = filler_around_key(tokenizer, sample.prompt_ids)
    assert before_and_after[0][0] == 0
    assert before_and_after[1][1] == 0
    before, after = before_and_after[0.25]
    assert before / (before + after) == pytest.approx(0.25, abs=0.02)


def test_filler_tokens_are_used_in_order_and_unchanged(tokenizer: PreTrainedTokenizerFast) -> None:
    filler = np.random.default_rng(0).integers(10, 300, size=400).tolist()
    ids = passkey_sample(tokenizer, 400, 0.3, 12345, filler).prompt_ids
    pieces = PasskeyTemplate(tokenizer)
    count = 400 - pieces.shortest(pieces.head, 12345)
    place = len(pieces.head) + round(0.3 * count)
    assert ids[len(pieces.head) : place] == filler[: round(0.3 * count)]
    after = place + len(pieces.key_line(12345))
    assert ids[after : after + count - round(0.3 * count)] == filler[round(0.3 * count) : count]


def test_a_length_too_short_for_the_prompt_says_the_least(any_tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = PasskeyTemplate(any_tokenizer)
    least = pieces.shortest(pieces.head, 12345)
    assert len(passkey_sample(any_tokenizer, least, 0.5, 12345).prompt_ids) < least
    with pytest.raises(LengthError, match=f"at least {least} tokens"):
        passkey_sample(any_tokenizer, least - 1, 0.5, 12345)


def test_too_little_filler_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(LengthError, match="3 filler tokens cannot fill"):
        passkey_sample(tokenizer, 400, 0.5, 12345, [5, 6, 7])


def test_keys_have_five_digits() -> None:
    rng = np.random.default_rng(0)
    keys = [random_key(rng) for _ in range(2000)]
    assert min(keys) >= 10000
    assert max(keys) <= 99999
    assert np.mean(keys) == pytest.approx(55000, rel=0.03)


def test_the_words_are_those_of_the_published_template(data_dir: Callable[[str], Path]) -> None:
    words = json.loads((data_dir("eval") / "landmark_passkey" / "passkey.json").read_text())
    assert words["task_description"] == template.TASK
    assert words["garbage"] == " ".join(template.FILLER)
    assert words["information_line"].format(pass_key=7) == template.KEY_SENTENCE.format(key=7)
    assert words["final_question"] == template.QUESTION
