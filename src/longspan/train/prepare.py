"""Text to training windows: the tokenizer, the token files, made once and shared between runs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from longspan.data.text import read_documents
from longspan.data.tokenizer import tokenizer_hash, train_tokenizer
from longspan.data.tokens import TokenFile, prepare_tokens
from longspan.errors import DataError
from longspan.files import storage_errors, value_hash
from longspan.models import fingerprint, load_tokenizer
from longspan.train.config import DataSettings, RunConfig


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run reads."""

    tokenizer: PreTrainedTokenizerBase
    tokens: TokenFile

    @property
    def summary(self) -> dict[str, Any]:
        """Counts and hashes, for `data.json`."""
        return {**self.tokens.info, "documents": len(self.tokens.names)}


def prepare(config: RunConfig, folder: Path, *, progress: bool = True) -> Prepared:
    """Tokenizer and tokens of a run, in `folder`; made if they are not there.

    Processes that ask for the same folder at the same time wait for the one that makes it.

    Raises:
        DataError: the text is missing, unreadable, empty, or shorter than one window.
        CheckpointError: the tokenizer named in the settings cannot be read.
        StorageError: the disk is full or `folder` cannot be written.
    """
    data = config.data
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    try:
        tokenizer = _tokenizer(config, folder)
        # named by what goes in, so that runs with other texts or tokenizers do not overwrite it
        place = folder / f"tokens-{value_hash([data.text, data.field, data.part, tokenizer_hash(tokenizer)])}"
        tokens = prepare_tokens(data.text, tokenizer, place, field=data.field, part=data.part, progress=progress)
    finally:
        lock.release()
    if len(tokens) < config.train_length:
        raise DataError(
            f"{data.text} has {len(tokens)} tokens, fewer than one window of {config.train_length}: "
            "give more text or a shorter train_length"
        )
    return Prepared(tokenizer, tokens)


def input_hashes(config: RunConfig) -> dict[str, str]:
    """Hashes of what a run reads, by the setting that names it: the text, a given tokenizer, the models.

    What lies on the network (`datasets:`, a model's hub name) is known by its name alone and left out.

    Raises:
        DataError, CheckpointError: text or tokenizer are missing or cannot be read.
    """
    data, model = config.data, config.model.from_
    found = {}
    if not data.text.startswith("datasets:"):
        found["data.text"] = _text_hash(data)
    if data.tokenizer is not None:
        found["data.tokenizer"] = tokenizer_hash(load_tokenizer(data.tokenizer))
    if model is not None and (weights := _fingerprint(model)) is not None:
        own = [] if data.tokenizer is not None else [tokenizer_hash(load_tokenizer(model))]
        found["model.from"] = value_hash([weights, *own])
    if config.distill is not None and (weights := _fingerprint(config.distill.from_)) is not None:
        found["distill.from"] = weights
    return found


def _fingerprint(model: str) -> str | None:
    try:
        return fingerprint(model)
    except FileNotFoundError:  # a folder that lacks files; loading the model says which
        return None


def _tokenizer(config: RunConfig, folder: Path) -> PreTrainedTokenizerBase:
    data = config.data
    given = data.tokenizer or config.model.from_
    if given is not None:
        return load_tokenizer(given)
    assert data.vocab_size is not None
    place = folder / f"tokenizer-{value_hash([_text_hash(data), data.vocab_size])}"
    if not place.is_dir():
        documents = read_documents(data.text, field=data.field, part=data.part)
        train_tokenizer((document.text for document in documents), data.vocab_size, place)
    return load_tokenizer(place)


def _text_hash(data: DataSettings) -> str:
    digest = hashlib.sha256()
    for document in read_documents(data.text, field=data.field, part=data.part):
        digest.update(hashlib.sha256(document.text.encode()).digest())
    return digest.hexdigest()
