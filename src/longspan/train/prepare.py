"""Text or conversations to training windows: the tokenizer, the token files, made once and shared between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from longspan.data.conversation_dataset import ConversationDataset, ConversationRows, arrange
from longspan.data.conversation_file import first_unusable, prepare_conversations, refuse_unusable, source_hash
from longspan.data.mixture import MixtureDataset
from longspan.data.positions import Placer
from longspan.data.templates import PLAIN_NAME, with_template
from longspan.data.text import read_documents, read_text
from longspan.data.tokenizer import tokenizer_hash, train_tokenizer
from longspan.data.tokens import TokenFile, prepare_tokens
from longspan.errors import DataError
from longspan.files import storage_errors, value_hash
from longspan.models import fingerprint, load_tokenizer
from longspan.train.config import RunConfig
from longspan.train.data_settings import DataSettings


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run reads."""

    tokenizer: PreTrainedTokenizerBase
    tokens: TokenFile | None
    """The text, or else there are conversations."""
    conversations: ConversationRows | None
    summary: dict[str, Any]
    """Counts and hashes, for `data.json`."""

    @property
    def notes(self) -> list[str]:
        """What the user should know about conversations that are not trained on as they stand."""
        if self.conversations is None:
            return []
        counts, notes = self.conversations.statistics, []
        if unusable := first_unusable(self.conversations.file.info):
            notes.append(f"{unusable}; they are left out")
        cut, left_out = counts["conversations_cut"], counts["conversations_left_out"]
        if cut or left_out:
            notes.append(
                f"{cut} conversations are longer than {self.conversations.length} tokens and cut where a response ends,"
                f" {left_out} have no such place and are left out"
            )
        return notes

    def settled(self, config: RunConfig) -> RunConfig:
        """The same run with its steps known, where it was given in epochs."""
        return config if self.conversations is None else config.for_epochs(len(self.conversations))

    def tokens_seen(self, config: RunConfig) -> Callable[[int], int]:
        """Tokens that the model has seen after so many steps, padding left out."""
        rows = self.conversations
        if rows is None:
            return lambda step: step * config.batch_tokens
        return lambda step: rows.tokens_before(step * config.rows_per_step, config.seed)

    def dataset(self, config: RunConfig, placer: Placer | None) -> Dataset[dict[str, Tensor]]:
        """The rows of the whole run, in order."""
        size = config.total_steps * config.rows_per_step
        if self.conversations is not None:
            return ConversationDataset(self.conversations, config.seed, size, placer)
        assert self.tokens is not None
        assert config.data.mixture is not None
        return MixtureDataset(
            self.tokens, self.tokenizer, config.train_length, config.data.mixture, config.seed, size, placer
        )


def prepare(config: RunConfig, folder: Path, *, progress: bool = True) -> Prepared:
    """Tokenizer and tokens of a run, in `folder`; made if they are not there.

    The tokenizer of a run on conversations has the chat template of that run.

    Processes that ask for the same folder at the same time wait for the one that makes it.

    Raises:
        DataError: the text or the conversations are missing, unreadable, empty, shorter than one window, or not to be
            used with this tokenizer; or rows cannot be used and `on_bad_rows` is `stop`.
        CheckpointError: the tokenizer named in the settings cannot be read.
        StorageError: the disk is full or `folder` cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    try:
        tokenizer = _tokenizer(config, folder)
        if config.data.conversations is not None:
            return _prepare_conversations(config, tokenizer, folder, progress)
        return _prepare_text(config, tokenizer, folder, progress)
    finally:
        lock.release()


def _prepare_text(config: RunConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, progress: bool) -> Prepared:
    data, length = config.data, config.train_length
    assert data.text is not None
    # named by what goes in, so that runs with other texts or tokenizers do not overwrite it
    place = folder / f"tokens-{value_hash([data.text, data.field, data.part, tokenizer_hash(tokenizer)])}"
    tokens = prepare_tokens(data.text, tokenizer, place, field=data.field, part=data.part, progress=progress)
    if len(tokens) < length:
        raise DataError(
            f"{data.text} has {len(tokens)} tokens, fewer than one window of {length}: "
            "give more text or a shorter train_length"
        )
    short = int((np.diff(tokens.offsets) < length).sum())
    summary = {**tokens.info, "documents": len(tokens.names), "documents_shorter_than_window": short}
    return Prepared(tokenizer, tokens, None, summary)


def _prepare_conversations(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, progress: bool
) -> Prepared:
    data = config.data
    assert data.conversations is not None
    assert data.packing is not None
    tokenizer = with_template(tokenizer, data.template)
    made_of = [data.conversations, data.part, tokenizer_hash(tokenizer), tokenizer.get_chat_template()]
    place = folder / f"conversations-{value_hash(made_of)}"
    file = prepare_conversations(data.conversations, tokenizer, place, part=data.part, progress=progress)
    if data.on_bad_rows == "stop":
        refuse_unusable(file.info, data.conversations)
    rows = arrange(file, config.train_length, data.packing)
    counts = {key: value for key, value in file.info.items() if key != "lengths"}
    return Prepared(tokenizer, None, rows, {**counts, **rows.statistics})


def input_hashes(config: RunConfig) -> dict[str, str]:
    """Hashes of what a run reads, by the setting that names it: text or conversations, a given tokenizer, the models.

    What lies on the network (`datasets:`, a model's hub name) is known by its name alone and left out.

    Raises:
        DataError, CheckpointError: text or tokenizer are missing or cannot be read.
    """
    data, model = config.data, config.model.from_
    found = {}
    if data.conversations is not None:
        found["data.conversations"] = source_hash(data.conversations, part=data.part)
        if data.template not in (None, PLAIN_NAME):
            found["data.template"] = value_hash(read_text(Path(str(data.template)).expanduser()))
    elif not data.source.startswith("datasets:"):
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
        documents = read_documents(data.source, field=data.field, part=data.part)
        train_tokenizer((document.text for document in documents), data.vocab_size, place)
    return load_tokenizer(place)


def _text_hash(data: DataSettings) -> str:
    digest = hashlib.sha256()
    for document in read_documents(data.source, field=data.field, part=data.part):
        digest.update(hashlib.sha256(document.text.encode()).digest())
    return digest.hexdigest()
