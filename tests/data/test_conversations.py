"""Conversation files: each layout, what is refused and why, the token file that is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from longspan.data import conversation_file as file_module
from longspan.data.conversation_file import open_conversations, prepare_conversations, refuse_unusable
from longspan.data.conversations import (
    Conversation,
    UnusableRow,
    UnusableRowError,
    parse_messages,
    read_conversations,
)
from longspan.data.templates import with_template
from longspan.errors import DataError, StorageError

OPENAI = {"messages": [{"role": "user", "content": "river 42"}, {"role": "assistant", "content": "stone"}]}


def said(row: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in parse_messages(row)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (OPENAI, [("user", "river 42"), ("assistant", "stone")]),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "be kind"},
            [("system", "be kind"), ("user", "a"), ("assistant", "b")],
        ),
        ({"instruction": "a", "input": "", "output": "b"}, [("user", "a"), ("assistant", "b")]),
        ({"instruction": "a", "input": "x", "response": "b"}, [("user", "a\nx"), ("assistant", "b")]),
        (
            {"instruction": "c", "output": "d", "history": [["a", "b"]]},
            [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
        ),
        (
            {
                "tools": '[{"name": "f"}]',
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "a"},
                    {"from": "function_call", "value": "f()"},
                    {"from": "observation", "value": "1"},
                    {"from": "gpt", "value": "one"},
                    {"from": "human", "value": "unanswered"},
                ],
            },
            [
                ("system", 's\n\n[{"name": "f"}]'),
                ("user", "a"),
                ("assistant", "f()"),
                ("user", "1"),
                ("assistant", "one"),
            ],
        ),
    ],
)
def test_each_layout_is_known_by_its_keys(row: Any, expected: list[tuple[str, str]]) -> None:
    assert said(row) == expected


def turns(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["a"], "not a JSON object"),
        ({"text": "a"}, "no list of turns under .* the keys are text"),
        ({"messages": []}, "no list of turns"),
        ({"messages": ["a"]}, "turn 1 is not a JSON object"),
        (turns((None, "a")), "turn 1 has no role"),
        (turns(("user", "a"), ("narrator", "b")), "turn 2 has the unknown role 'narrator'"),
        (turns(("user", "a"), ("assistant", None)), "turn 2 has no text"),
        (turns(("user", "a"), ("assistant", " \n")), "turn 2 is empty"),
        (turns(("assistant", "a")), "message 1 is from the assistant, not the user"),
        (turns(("user", "a"), ("user", "b"), ("assistant", "c")), "message 2 is from the user, not the assistant"),
        (turns(("user", "a")), "no response to learn"),
        (turns(("system", "a")), "no response to learn"),
        ({**OPENAI, "label": False}, "preference"),
        ({"instruction": "a"}, "turn 2 has no text"),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "'history' is not a list of pairs"),
    ],
)
def test_a_row_that_is_no_conversation_says_why(row: Any, reason: str) -> None:
    with pytest.raises(UnusableRowError, match=reason):
        parse_messages(row)


def test_broken_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(f'{json.dumps(OPENAI)}\n\n{{"messages": \n{json.dumps(OPENAI)}\n')
    rows = list(read_conversations(path))
    assert [type(row) for row in rows] == [Conversation, UnusableRow, Conversation]
    assert [row.name for row in rows] == ["talk.jsonl:1", "talk.jsonl:3", "talk.jsonl:4"]
    assert str(rows[1]).startswith("talk.jsonl:3: not JSON (")


def test_lists_and_lines_and_folders_of_them_give_the_same_conversations(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "list.json").write_text(json.dumps([OPENAI] * 3, indent=1))
    (tmp_path / "lines.json").write_text(f"{json.dumps(OPENAI)}\n" * 3)
    (tmp_path / ".hidden.json").write_text("[")
    (tmp_path / "notes.txt").write_text("no conversation")
    rows = list(read_conversations(tmp_path))
    assert [row.name for row in rows] == [f"{name}:{n}" for name in ("a/list.json", "lines.json") for n in (1, 2, 3)]
    assert len({row.messages for row in rows if isinstance(row, Conversation)}) == 1


def test_every_twentieth_row_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([OPENAI] * 45))
    held_out = [row.name for row in read_conversations(tmp_path / "a.json", part="validation")]
    assert held_out == ["a.json:20", "a.json:40"]
    assert len(list(read_conversations(tmp_path / "a.json", part="train"))) == 43


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("none.json", None, "does not exist"), ("a.json", "[{]", "is not a JSON list"), ("a.json", "\ufffd", "not UTF-8")],
)
def test_a_source_that_cannot_be_read_is_an_error(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(b"\xff" if content == "\ufffd" else content.encode())
    with pytest.raises(DataError, match=says):
        list(read_conversations(tmp_path / name))


def test_a_folder_without_conversation_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no conversation files"):
        list(read_conversations(tmp_path))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "talk.jsonl"
    broken = turns(("user", "a"), ("assistant", ""))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in (OPENAI, broken, OPENAI, ["a"])))
    return path


def test_the_token_file_is_made_once_and_counts_what_it_left_out(
    source: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = with_template(tokenizer, None)
    file = prepare_conversations(source, tokenizer, tmp_path / "out", progress=False)
    expected = "<s>User:\nriver 42\nAssistant:\nstone</s>\n"
    assert [tokenizer.decode(file.conversation(number)["id"]) for number in range(len(file))] == [expected] * 2
    learned = file.conversation(0)["id"][file.conversation(0)["learned"]]
    assert tokenizer.decode(learned) == "stone</s>"
    assert file.info["learned_tokens"] == 2 * len(learned)
    assert (file.info["bad_rows"], file.info["first_bad_row"]) == (2, "talk.jsonl:2: turn 2 is empty")
    with pytest.raises(
        DataError, match=r"2 of 4 rows cannot be used, the first is talk.jsonl:2: turn 2 is empty; .*skip"
    ):
        refuse_unusable(file.info, str(source))
    monkeypatch.setattr(file_module, "_write", lambda *_: pytest.fail("made again"))
    again = prepare_conversations(source, tokenizer, tmp_path / "out", progress=False)
    assert np.array_equal(file.tokens, again.tokens)


@pytest.mark.parametrize("change", ["text", "template", "damage"])
def test_another_text_template_or_damage_makes_it_anew(
    source: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, change: str
) -> None:
    tokenizer = with_template(tokenizer, "plain")
    before = prepare_conversations(source, tokenizer, tmp_path / "out", progress=False).info
    if change == "text":
        source.write_text(json.dumps(OPENAI).replace("stone", "stones"))
    elif change == "template":
        tokenizer.chat_template = tokenizer.chat_template.replace("\n", "\n\n")
    else:
        path = tmp_path / "out" / "conversations.bin"
        path.write_bytes(b"\x05" + path.read_bytes()[1:])
        with pytest.raises(DataError, match="is damaged"):
            open_conversations(tmp_path / "out", verify=True)
    after = prepare_conversations(source, tokenizer, tmp_path / "out", progress=False).info
    assert (after["tokens_sha256"] == before["tokens_sha256"]) == (change == "damage")
    open_conversations(tmp_path / "out", verify=True)


def test_a_source_without_one_usable_row_names_the_first(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a"}]')
    with pytest.raises(DataError, match=r"no conversation that can be used: 1 of 1 rows .* a.json:1: no list of turns"):
        prepare_conversations(tmp_path / "a.json", with_template(tokenizer, None), tmp_path / "out", progress=False)


def test_a_full_disk_is_said_and_leaves_nothing(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, small_disk: Callable
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([OPENAI] * 50))
    tokenizer = with_template(tokenizer, None)
    with small_disk(), pytest.raises(StorageError, match="cannot write"):
        prepare_conversations(tmp_path / "a.json", tokenizer, tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("name", "usable", "reasons"),
    [
        ("llama_factory_demo/alpaca_en_demo.json", 999, {}),
        ("llama_factory_demo/glaive_toolcall_en_demo.json", 300, {}),
        ("llama_factory_demo/identity.json", 91, {}),
        ("llama_factory_demo/dpo_en_demo.json", 0, {"a preference": 300}),
        ("gpteacher", 14131, {}),
    ],
)
def test_public_files_are_read(
    data_dir: Callable[[str], Path], name: str, usable: int, reasons: dict[str, int]
) -> None:
    rows = list(read_conversations(data_dir("instruct") / name))
    found: dict[str, int] = {}
    for row in rows:
        if isinstance(row, UnusableRow):
            reason = row.reason.split(",")[0]
            found[reason] = found.get(reason, 0) + 1
    assert found == reasons
    assert sum(isinstance(row, Conversation) for row in rows) == usable
