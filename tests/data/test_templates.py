"""Blocks and learned tokens of conversations, against conversations whose parts are written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from chat_templates import CASES, CHATML, EXCHANGES, MISTRAL, REST, SPECIAL, WITH_SYSTEM, Case
from longspan.data.conversations import Conversation, Message, UnusableRowError, read_conversations
from longspan.data.templates import PLAIN, encode, render, with_template
from longspan.errors import DataError


@pytest.fixture
def chat_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The small tokenizer with the special tokens of all templates."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


@pytest.mark.parametrize("name", CASES)
def test_borders_from_the_template_equal_borders_from_token_spans(
    name: str, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    case: Case = CASES[name]
    chat_tokenizer.chat_template = case.template
    (found,) = encode(chat_tokenizer, [render(chat_tokenizer, case.messages)])
    ids, turns, learned = [], [], []
    for block, is_learned, text in case.parts:
        part = chat_tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += part
        turns += [block] * len(part)
        learned += [is_learned] * len(part)
    assert found.ids == ids
    assert found.turns == turns
    assert found.learned == learned


def test_tokens_are_those_that_the_tokenizer_makes_of_the_conversation(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    chat_tokenizer.chat_template = CASES["llama 3"].template
    values = [{"role": message.role, "content": message.content} for message in WITH_SYSTEM]
    (found,) = encode(chat_tokenizer, [render(chat_tokenizer, WITH_SYSTEM)])
    assert found.ids == chat_tokenizer.apply_chat_template(values)["input_ids"]


def test_what_is_learned_is_what_the_generation_marks_of_transformers_say(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    case = CASES["chatml with generation"]
    chat_tokenizer.chat_template = case.template
    values = [{"role": message.role, "content": message.content} for message in case.messages]
    marked = chat_tokenizer.apply_chat_template(values, return_assistant_tokens_mask=True)["assistant_masks"]
    (found,) = encode(chat_tokenizer, [render(chat_tokenizer, case.messages)])
    assert found.learned == [bool(mark) for mark in marked]


def test_a_character_of_many_tokens_stays_in_its_block(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    messages = (Message("user", "é 日本 🙂"), Message("assistant", "🙂 日本"))
    chat_tokenizer.chat_template = PLAIN
    (found,) = encode(chat_tokenizer, [render(chat_tokenizer, messages)])
    learned = [token for token, is_learned in zip(found.ids, found.learned, strict=True) if is_learned]
    assert chat_tokenizer.decode(learned) == "🙂 日本</s>"
    assert sorted(found.turns) == found.turns
    assert set(found.turns) == {0, 1}


def test_a_generation_prompt_that_says_more_than_the_response_is_left_aside(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    chat_tokenizer.chat_template = CHATML.replace("assistant\\n'", "assistant\\n<think>'")
    rendered = render(chat_tokenizer, EXCHANGES)
    assert [rendered.text[start:end] for start, end in rendered.learned] == [
        "copper bird,<|im_end|>",
        "paper; cloud.<|im_end|>",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("source", ["alpaca_en_demo", "glaive_toolcall_en_demo", "kto_en_demo"])
def test_what_is_learned_of_public_conversations_are_their_responses_and_end_tokens(
    name: str, source: str, chat_tokenizer: PreTrainedTokenizerFast, data_dir: Callable[[str], Path]
) -> None:
    chat_tokenizer.chat_template = CASES[name].template
    end = CASES[name].parts[-1][2] if CASES[name].parts[-1][1] else CASES[name].parts[-2][2]
    end = end.removeprefix(REST).removeprefix(f" {REST}").strip()
    rows = read_conversations(data_dir("instruct") / "llama_factory_demo" / f"{source}.json")
    seen = 0
    for row in rows:
        if not isinstance(row, Conversation):
            continue
        messages = row.messages[row.messages[0].role == "system" :]  # not every template takes a system prompt
        (found,) = encode(chat_tokenizer, [render(chat_tokenizer, messages)])
        ids, turns, learned = (np.array(values) for values in (found.ids, found.turns, found.learned))
        for number, message in enumerate(messages):
            said = chat_tokenizer.decode(ids[learned & (turns == number)])
            if message.role == "user":
                assert said == ""
            else:
                assert said.endswith(end)
                assert said.removesuffix(end).strip() == message.content.strip()
        seen += 1
    assert seen >= 150


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        (MISTRAL, WITH_SYSTEM, "refuses it .Conversation roles must alternate"),
        (CHATML, (Message("user", "a"), Message("assistant", "b <|im_end|>")), "special token <|im_end|>"),
        ("{{ messages[-1]['content'] }}", EXCHANGES, "writes message 1 otherwise when more follow"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", EXCHANGES, "as it stands"),
        ("{% for m in messages %}{{ m['content'] + 1 }}{% endfor %}", EXCHANGES, "refuses it"),
    ],
)
def test_a_conversation_that_the_template_cannot_say_is_unusable(
    chat_tokenizer: PreTrainedTokenizerFast, template: str, messages: tuple[Message, ...], says: str
) -> None:
    chat_tokenizer.chat_template = template
    with pytest.raises(UnusableRowError, match=says.replace("|", r"\|")):
        render(chat_tokenizer, messages)


def test_a_template_comes_from_the_tokenizer_a_file_or_is_the_plain_one(
    chat_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    assert with_template(copy.deepcopy(chat_tokenizer), None).chat_template == PLAIN
    (tmp_path / "chat.jinja").write_text(CHATML)
    named = with_template(chat_tokenizer, str(tmp_path / "chat.jinja"))
    assert named.chat_template == CHATML
    assert with_template(named, None).chat_template == CHATML
    assert with_template(named, "plain").chat_template == PLAIN
    (tmp_path / "chat.jinja").write_text("{% for %}")
    with pytest.raises(DataError, match="not valid jinja"):
        with_template(chat_tokenizer, str(tmp_path / "chat.jinja"))
