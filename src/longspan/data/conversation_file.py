"""Conversation files as one memory-mapped array of tokens with their blocks, made once and used again."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from longspan.data.conversations import Conversation, UnusableRow, UnusableRowError, read_conversations
from longspan.data.templates import Rendered, encode, render
from longspan.data.text import Part
from longspan.data.tokenizer import tokenizer_hash
from longspan.errors import DataError
from longspan.files import file_hash, replacing, value_hash, write_json

DATA_FILE, ROW_FILE = "data.json", "conversations.bin"
TOKEN = np.dtype([("id", "<u4"), ("turn", "<u2"), ("learned", "?")])
"""One token, the block it stands in (0 the first instruction, 1 its response, ...), and whether it is learned."""
_BATCH = 500

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConversationFile:
    """Tokens of all conversations, one behind the other."""

    tokens: np.ndarray
    """1-D, dtype `TOKEN`, memory-mapped."""
    offsets: np.ndarray
    """Where each conversation starts, int64 [conversations + 1]; the last entry is the number of tokens."""
    info: dict[str, Any] = field(repr=False)
    """What `data.json` says: source, counts, rows that could not be used, hashes."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def conversation(self, index: int) -> np.ndarray:
        """The tokens of one conversation, 1-D, dtype `TOKEN`."""
        index = range(len(self))[index]
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def prepare_conversations(
    source: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    part: Part = "all",
    progress: bool = True,
) -> ConversationFile:
    """Token file of `source`, by the tokenizer's chat template, in `folder`; made if needed, else used again.

    It is used again if conversations, tokenizer and template have the same hashes as when it was made and the file is
    whole. Rows that cannot be used are counted; what becomes of them is the caller's to say.

    Raises:
        DataError: the source is missing or unreadable, or none of its rows can be used.
        StorageError: the disk is full or `folder` cannot be written.
    """
    inputs = {
        "source": str(source),
        "part": part,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "template": value_hash(tokenizer.get_chat_template()),
        "text_sha256": source_hash(source, part=part),
    }
    if (folder / DATA_FILE).exists():
        try:
            found = open_conversations(folder, verify=True)
            if all(found.info.get(key) == value for key, value in inputs.items()):
                return found
        except DataError as error:
            logger.warning("%s; making it again", error)
    with tqdm(desc="conversations", unit="row", disable=not progress) as bar:
        info = _write(read_conversations(source, part=part), tokenizer, folder / ROW_FILE, bar)
    if not info["lengths"]:
        raise DataError(f"{source} has no conversation that can be used: {first_unusable(info) or 'it is empty'}")
    write_json(folder / DATA_FILE, {**inputs, **info})
    return open_conversations(folder)


def open_conversations(folder: Path, *, verify: bool = False) -> ConversationFile:
    """The token file in `folder`; `verify` also compares the hash of all tokens.

    Raises:
        DataError: a file is missing, truncated or damaged.
    """
    data_file, row_file = folder / DATA_FILE, folder / ROW_FILE
    try:
        info = json.loads(data_file.read_text(encoding="utf-8"))
        offsets = np.concatenate([[0], np.cumsum(info["lengths"])]).astype(np.int64)
        digest = info["tokens_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{data_file} is missing or damaged ({error}): prepare the conversations again") from error
    size, expected = (row_file.stat().st_size if row_file.is_file() else 0), int(offsets[-1]) * TOKEN.itemsize
    if size != expected:
        raise DataError(f"{row_file} has {size} bytes instead of {expected}: prepare the conversations again")
    if verify and file_hash(row_file) != digest:
        raise DataError(f"{row_file} is damaged (its hash has changed): prepare the conversations again")
    return ConversationFile(np.memmap(row_file, dtype=TOKEN, mode="r"), offsets, info)


def source_hash(source: str | os.PathLike[str], *, part: Part = "all") -> str:
    """SHA-256 of all rows of `source`, as hexadecimal digits.

    Raises:
        DataError: the source is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for row in read_conversations(source, part=part):
        digest.update(json.dumps(asdict(row), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def refuse_unusable(info: dict[str, Any], source: str) -> None:
    """Stop where rows could not be used.

    Raises:
        DataError: there were some; says how many, and which was the first.
    """
    if first := first_unusable(info):
        raise DataError(f"{source}: {first}; correct them, or set data.on_bad_rows to skip")


def first_unusable(info: dict[str, Any]) -> str | None:
    """How many rows could not be used and which was the first; None if all could."""
    count = info["bad_rows"]
    rows = len(info["lengths"]) + count
    return f"{count} of {rows} rows cannot be used, the first is {info['first_bad_row']}" if count else None


def _write(
    rows: Iterator[Conversation | UnusableRow], tokenizer: PreTrainedTokenizerBase, path: Path, bar: tqdm
) -> dict[str, Any]:
    """Write all tokens to `path`; returns what `data.json` says about them."""
    lengths: list[int] = []
    unusable: list[UnusableRow] = []
    learned = 0
    with replacing(path) as part:
        with part.open("wb") as file:
            while batch := list(itertools.islice(rows, _BATCH)):
                rendered = [found for row in batch if (found := _rendered(tokenizer, row, unusable)) is not None]
                for tokens in _encoded(tokenizer, rendered):
                    file.write(tokens.tobytes())
                    lengths.append(len(tokens))
                    learned += int(tokens["learned"].sum())
                bar.update(len(batch))
        digest = file_hash(part)
    return {
        "lengths": lengths,
        "tokens": sum(lengths),
        "learned_tokens": learned,
        "bad_rows": len(unusable),
        "first_bad_row": str(unusable[0]) if unusable else None,
        "tokens_sha256": digest,
    }


def _rendered(
    tokenizer: PreTrainedTokenizerBase, row: Conversation | UnusableRow, unusable: list[UnusableRow]
) -> Rendered | None:
    if isinstance(row, Conversation):
        try:
            return render(tokenizer, row.messages)
        except UnusableRowError as error:
            row = UnusableRow(row.name, str(error))
    unusable.append(row)
    return None


def _encoded(tokenizer: PreTrainedTokenizerBase, rendered: list[Rendered]) -> Iterator[np.ndarray]:
    for conversation in encode(tokenizer, rendered) if rendered else []:
        tokens = np.empty(len(conversation.ids), TOKEN)
        tokens["id"], tokens["turn"], tokens["learned"] = conversation.ids, conversation.turns, conversation.learned
        yield tokens
