"""Token files: documents as one memory-mapped array of token ids, made once and used again."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from longspan.data.text import Document, Part, read_documents
from longspan.data.tokenizer import tokenizer_hash
from longspan.errors import DataError
from longspan.files import file_hash, replacing, write_json

DATA_FILE, TOKEN_FILE = "data.json", "tokens.bin"
_BATCH_CHARACTERS = 2_000_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenFile:
    """Tokens of all documents, each followed by the tokenizer's end-of-text token if it has one."""

    tokens: np.ndarray
    """Token ids, 1-D, uint16 or uint32, memory-mapped."""
    offsets: np.ndarray
    """Where each document starts, int64 [documents + 1]; the last entry is the number of tokens."""
    names: tuple[str, ...]
    """Names of the documents: files of a folder, rows of a JSONL file."""
    bytes: tuple[int, ...]
    """UTF-8 bytes of each document, for bits per byte."""
    separators: int
    """End-of-text tokens after each document: 1, or 0 if the tokenizer has none."""
    info: dict[str, Any] = field(repr=False)
    """What `data.json` says: source, counts, hashes."""

    def __len__(self) -> int:
        return len(self.tokens)

    def document(self, index: int) -> np.ndarray:
        """Tokens of one document as written, 1-D: no BOS, no end-of-text token."""
        index = range(len(self.names))[index]
        return self.tokens[self.offsets[index] : self.offsets[index + 1] - self.separators]


def prepare_tokens(
    source: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    field: str = "text",
    part: Part = "all",
    progress: bool = True,
) -> TokenFile:
    """Token file of `source` in `folder` (`tokens.bin`, `data.json`): made if needed, else used again.

    It is used again if texts and tokenizer have the same hash as when it was made and `tokens.bin` is whole; a
    truncated or damaged one is made anew. `source`, `field` and `part` are those of `read_documents`.

    Raises:
        DataError: the source is missing, unreadable or empty.
        StorageError: the disk is full or `folder` cannot be written.
    """
    folder = Path(folder)
    documents = functools.partial(read_documents, source, field=field, part=part)
    inputs = {"source": str(source), "part": part, "tokenizer_sha256": tokenizer_hash(tokenizer)}
    inputs["text_sha256"], characters = _text_hash(documents())
    if (folder / DATA_FILE).exists():
        try:
            found = open_tokens(folder, verify=True)
            if all(found.info.get(key) == value for key, value in inputs.items()):
                return found
        except DataError as error:
            logger.warning("%s; making it again", error)
    with tqdm(total=characters, desc="tokens", unit="char", unit_scale=True, disable=not progress) as bar:
        info = _write_tokens(documents(), tokenizer, folder / TOKEN_FILE, bar)
    write_json(folder / DATA_FILE, {**inputs, **info})
    return open_tokens(folder)


def open_tokens(folder: Path, *, verify: bool = False) -> TokenFile:
    """The token file in `folder`; `verify` also compares the hash of all tokens.

    Raises:
        DataError: a file is missing, truncated or damaged.
    """
    folder = Path(folder)
    data_file, token_file = folder / DATA_FILE, folder / TOKEN_FILE
    try:
        info = json.loads(data_file.read_text(encoding="utf-8"))
        lengths = [document["tokens"] for document in info["documents"]]
        dtype = np.dtype(info["dtype"])
        expected = info["tokens"] * dtype.itemsize
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{data_file} is missing or damaged ({error}): prepare the tokens again") from error
    size = token_file.stat().st_size if token_file.is_file() else 0
    if size != expected:
        raise DataError(f"{token_file} has {size} bytes instead of {expected}: prepare the tokens again")
    if verify and file_hash(token_file) != info["tokens_sha256"]:
        raise DataError(f"{token_file} is damaged (its hash has changed): prepare the tokens again")
    return TokenFile(
        tokens=np.memmap(token_file, dtype=dtype, mode="r"),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        names=tuple(document["name"] for document in info["documents"]),
        bytes=tuple(document["bytes"] for document in info["documents"]),
        separators=info["separators"],
        info=info,
    )


def _text_hash(documents: Iterator[Document]) -> tuple[str, int]:
    digest, characters = hashlib.sha256(), 0
    for document in documents:
        for text in (document.name, document.text):
            data = text.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        characters += len(document.text)
    return digest.hexdigest(), characters


def _write_tokens(
    documents: Iterator[Document], tokenizer: PreTrainedTokenizerBase, path: Path, bar: tqdm
) -> dict[str, Any]:
    """Write all tokens to `path`; returns what `data.json` says about them."""
    dtype = np.dtype("uint16" if len(tokenizer) <= 2**16 else "uint32")
    separator = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows: list[dict[str, Any]] = []
    with replacing(path) as part_path:
        with part_path.open("wb") as file:
            for batch in _batches(documents):
                rows += _write_batch(file, batch, tokenizer, separator, dtype)
                bar.update(sum(len(document.text) for document in batch))
        digest = file_hash(part_path)
    return {
        "documents": rows,
        "tokens": sum(row["tokens"] for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
        "separators": len(separator),
        "dtype": dtype.name,
        "vocab_size": len(tokenizer),
        "tokens_sha256": digest,
    }


def _write_batch(
    file: BinaryIO,
    batch: list[Document],
    tokenizer: PreTrainedTokenizerBase,
    separator: list[int],
    dtype: np.dtype,
) -> list[dict[str, Any]]:
    texts = [document.text for document in batch]
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    rows = []
    for document, ids in zip(batch, encoded, strict=True):
        file.write(np.asarray(ids + separator, dtype=dtype).tobytes())
        tokens = len(ids) + len(separator)
        rows.append({"name": document.name, "tokens": tokens, "bytes": len(document.text.encode())})
    return rows


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
