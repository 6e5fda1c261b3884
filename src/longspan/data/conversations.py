"""Conversations from files: ShareGPT, Alpaca and OpenAI messages, as JSON lists or a row a line, told apart by keys."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longspan.data.text import HELD_OUT_EVERY, Part, numbered_lines, read_text
from longspan.errors import DataError

Role = Literal["system", "user", "assistant"]

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    # what the model writes to call a function, and what it is told in return
    "function_call": "assistant",
    "observation": "user",
    "tool": "user",
    "function": "user",
}
"""Roles as files spell them."""
SUFFIXES = frozenset({".json", ".jsonl"})
"""Files of a folder that are read; a file named by itself is read whatever its suffix."""
_LAYOUTS = "'conversations' (ShareGPT), 'messages' (OpenAI), or 'instruction' with 'output' or 'response' (Alpaca)"


class UnusableRowError(ValueError):
    """What is wrong with one row; the policy for such rows decides what becomes of it."""


@dataclass(frozen=True, slots=True)
class Message:
    """What one side says."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """At most one system prompt, then instructions and responses in turn; the last message is a response."""

    name: str
    """`FILE:NUMBER`, the line or the place in the list, counted from 1."""
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class UnusableRow:
    """A row that is no conversation."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_conversations(source: str | os.PathLike[str], *, part: Part = "all") -> Iterator[Conversation | UnusableRow]:
    """Rows of `source` in a fixed order: conversations, and rows that cannot be used with the reason why.

    Args:
        source: a file that holds a JSON list, or an object a line (whatever its suffix); or a folder, searched for
            `.json` and `.jsonl` recursively and in sorted order (hidden names are left out).
        part: `all`, or `validation` for every 20th row and `train` for the rest.

    Raises:
        DataError: the source is missing, unreadable, not UTF-8, or a list that is not JSON.
    """
    for index, (name, row) in enumerate(_all_rows(Path(source).expanduser())):
        held_out = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        if part != "all" and held_out != (part == "validation"):
            continue
        if isinstance(row, UnusableRow):
            yield row
            continue
        try:
            yield Conversation(name, parse_messages(row))
        except UnusableRowError as error:
            yield UnusableRow(name, str(error))


def parse_messages(row: Any) -> tuple[Message, ...]:
    """The messages of one row in any of the layouts.

    Functions on offer (`tools`) stand under the system prompt. An instruction at the end that nothing answers is left
    out. The input of an Alpaca row stands in the line below its instruction.

    Raises:
        UnusableRowError: another layout, a missing or unknown role, an empty turn, two turns of one side after each
            other, nothing to learn, or an answer marked as a bad one.
    """
    if not isinstance(row, dict):
        raise UnusableRowError("not a JSON object")
    if "rejected" in row or row.get("label") is False:
        raise UnusableRowError("a preference, not an answer to learn ('rejected' or 'label: false')")
    turns = next((row[key] for key in ("conversations", "messages") if key in row), None)
    if turns is None and "instruction" in row:
        turns = _alpaca_turns(row)
    if not isinstance(turns, list) or not turns:
        keys = ", ".join(map(str, row)) or "none"
        raise UnusableRowError(f"no list of turns under {_LAYOUTS}; the keys are {keys}")
    messages = [_message(number, turn) for number, turn in enumerate(turns, start=1)]
    return _in_turn(_with_system(row, messages))


def _alpaca_turns(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    instruction = "\n".join(str(text) for text in (row["instruction"], row.get("input")) if text)
    answer = row.get("output", row.get("response"))
    history = row.get("history") or []
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise UnusableRowError("'history' is not a list of pairs")
    pairs = [*history, (instruction, answer)]
    sides = ("user", "assistant")
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(sides, pair, strict=True)]


def _message(number: int, turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise UnusableRowError(f"turn {number} is not a JSON object")
    role = turn.get("role", turn.get("from"))
    if role is None:
        raise UnusableRowError(f"turn {number} has no role")
    if role not in ROLES:
        raise UnusableRowError(f"turn {number} has the unknown role '{role}'")
    content = turn.get("content", turn.get("value"))
    if not isinstance(content, str):
        raise UnusableRowError(f"turn {number} has no text")
    if not content.strip():
        raise UnusableRowError(f"turn {number} is empty")
    return Message(ROLES[role], content)


def _with_system(row: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """The messages with what stands outside of the turns in front of them, as one system prompt."""
    prompts = [str(row[key]) for key in ("system", "tools") if row.get(key) not in (None, "", "[]", [])]
    if messages[0].role == "system":
        prompts.insert(0, messages.pop(0).content)
    return [Message("system", "\n\n".join(prompts)), *messages] if prompts else messages


def _in_turn(messages: list[Message]) -> tuple[Message, ...]:
    """The messages, made sure that instructions and responses take turns."""
    first = int(messages[0].role == "system")
    if len(messages) > first and messages[-1].role == "user":
        messages = messages[:-1]
    for number, message in enumerate(messages[first:]):
        expected = ("user", "assistant")[number % 2]
        if message.role != expected:
            raise UnusableRowError(f"message {first + number + 1} is from the {message.role}, not the {expected}")
    if len(messages) == first:
        raise UnusableRowError("no response to learn")
    return tuple(messages)


def _all_rows(source: Path) -> Iterator[tuple[str, Any]]:
    if not source.exists():
        raise DataError(f"{source} does not exist: name a conversation file (.json, .jsonl) or a folder of them")
    if not source.is_dir():
        yield from _rows(source, source.name)
        return
    names = [path.relative_to(source) for path in source.rglob("*") if path.suffix in SUFFIXES and path.is_file()]
    names = [name for name in names if not any(piece.startswith(".") for piece in name.parts)]
    if not names:
        raise DataError(f"{source} has no conversation files (.json, .jsonl): name a folder that has, or one file")
    for name in sorted(names, key=lambda path: path.as_posix()):
        yield from _rows(source / name, name.as_posix())


def _rows(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    if _starts_as_list(path):
        try:
            rows = json.loads(read_text(path))
        except ValueError as error:
            raise DataError(f"{path} is not a JSON list ({error}): correct it, or write one object a line") from error
        yield from ((f"{name}:{number}", row) for number, row in enumerate(rows, start=1))
        return
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            yield place, json.loads(line)
        except json.JSONDecodeError as error:
            yield place, UnusableRow(place, f"not JSON ({error.msg})")


def _starts_as_list(path: Path) -> bool:
    for _, line in numbered_lines(path):
        if line.strip():
            return line.lstrip().startswith("[")
    return False
