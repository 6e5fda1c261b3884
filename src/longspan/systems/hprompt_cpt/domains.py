"""Domains from text and labelled rows: tokens to learn from, and a task to be tuned on."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from longspan.data.text import numbered_lines, read_documents
from longspan.data.tokenizer import tokenizer_hash
from longspan.data.tokens import prepare_tokens
from longspan.errors import DataError
from longspan.files import value_hash
from longspan.systems.hprompt_cpt.config import DomainSettings

HELD_OUT = 20
"""Without labels, the last of so many equal parts of a domain's tokens is held out."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled texts."""

    input_ids: Int[Tensor, "N S"]
    mask: Bool[Tensor, "N S"]
    labels: Int[Tensor, " N"]


@dataclass(frozen=True, eq=False)
class Domain:
    """What is known of one domain."""

    name: str
    tokens: np.ndarray
    """Tokens to learn from, 1-D."""
    held_out: np.ndarray | None
    """Tokens of a domain without labels that are never learned."""
    classes: tuple[str, ...]
    train: Samples | None
    test: Samples | None


def read_domain(
    name: str, settings: DomainSettings, tokenizer: PreTrainedTokenizerBase, length: int, cache: Path
) -> Domain:
    """Tokens and task of a domain; token files are kept in `cache`.

    Raises:
        DataError: text or rows are missing, unreadable or fewer than one window; a label of the test set has no
            training sample.
    """
    parts = []
    for source in settings.sources:
        place = cache / f"tokens-{value_hash([source, settings.field, tokenizer_hash(tokenizer)])}"
        parts.append(prepare_tokens(source, tokenizer, place, field=settings.field, progress=False).tokens)
    tokens = np.concatenate(parts)
    held_out = None
    if settings.train is None:
        cut = len(tokens) - len(tokens) // HELD_OUT
        tokens, held_out = tokens[:cut], tokens[cut:]
    least = len(tokens) if held_out is None else min(len(tokens), len(held_out))
    if least < length:
        what = "tokens" if held_out is None else "held-out tokens"
        raise DataError(f"domains.{name}: {least} {what}, fewer than one window of {length}: give more text")
    classes, train, test = _task(name, settings, tokenizer, length)
    return Domain(name, tokens, held_out, classes, train, test)


def texts(settings: DomainSettings) -> list[str]:
    """The texts of a domain, to learn a tokenizer from."""
    return [document.text for source in settings.sources for document in read_documents(source, field=settings.field)]


def _task(
    name: str, settings: DomainSettings, tokenizer: PreTrainedTokenizerBase, length: int
) -> tuple[tuple[str, ...], Samples | None, Samples | None]:
    if settings.train is None or settings.test is None:
        return (), None, None
    train, test = (_labelled(Path(path), settings) for path in (settings.train, settings.test))
    classes = tuple(sorted({label for _, label in train}))
    if len(classes) < 2:
        raise DataError(
            f"domains.{name}.train: {settings.train} has one label alone, {classes[0]}: nothing to tell apart"
        )
    unseen = sorted({label for _, label in test} - set(classes))
    if unseen:
        raise DataError(
            f"domains.{name}.test: label '{unseen[0]}' of {settings.test} has no training sample in {settings.train}:"
            " add some, or take it out"
        )
    return classes, _encode(train, classes, tokenizer, length), _encode(test, classes, tokenizer, length)


def _labelled(path: Path, settings: DomainSettings) -> list[tuple[str, str]]:
    """Text and label of each row that has a label."""
    if path.suffix != ".jsonl" or not path.is_file():
        raise DataError(f"{path}: labelled rows are read from a .jsonl file, and this is none: name one")
    found = []
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error.msg}); each line must be one object") from error
        text = row.get(settings.field) if isinstance(row, dict) else None
        if not isinstance(text, str) or settings.label not in row:
            raise DataError(f"{path}, line {number}: no text under '{settings.field}' or no '{settings.label}'")
        if row[settings.label] is not None and text.strip():
            found.append((text, str(row[settings.label])))
    if not found:
        raise DataError(f"{path} has no row with a label under '{settings.label}': name another file or key")
    return found


def _encode(
    rows: list[tuple[str, str]], classes: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, length: int
) -> Samples:
    """Texts cut at `length` tokens and padded at their end."""
    # a tokenizer remembers where it cut, and would be saved with that
    cutter = copy.deepcopy(tokenizer)
    encoded = cutter([text for text, _ in rows], truncation=True, max_length=length, verbose=False)["input_ids"]
    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, found in enumerate(encoded):
        ids[row, : len(found)], mask[row, : len(found)] = torch.tensor(found), True
    return Samples(ids, mask, torch.tensor([classes.index(label) for _, label in rows]))
