"""Which windows are run over a document, and which of their tokens are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from longspan.errors import DataError, LengthError

Variant = Literal["matched", "all"]
_STRIDE_CAP = 512


@dataclass(frozen=True, slots=True)
class Span:
    """A window over one document: [BOS] + tokens start .. start + length - 2; tokens first .. last - 1 are scored."""

    document: int
    start: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Protocol:
    """The settings that decide which tokens are scored; equal for every length and every arm of a comparison."""

    stride: int | None
    """Tokens between window starts; None: a quarter of the window, at most 512."""
    variant: Variant
    longest: int
    """W_max: the longest window of the comparison."""
    max_targets: int | None

    def stride_at(self, length: int) -> int:
        """Tokens between the starts of neighbouring windows of `length` tokens."""
        return min(max(1, length // 4), _STRIDE_CAP) if self.stride is None else self.stride

    @property
    def first_target(self) -> int:
        """Index of the first token that is scored: 0 (`all`) or W_max (`matched`)."""
        return 0 if self.variant == "all" else self.longest

    @property
    def shortest_document(self) -> int:
        """Tokens that a document must have, or it is left out at every length."""
        return self.longest + self.stride_at(self.longest)

    def last_target(self, document_length: int) -> int:
        """One past the last token that is scored."""
        if self.max_targets is None:
            return document_length
        return min(document_length, self.first_target + self.max_targets)


def make_protocol(
    lengths: Sequence[int], stride: int | None, variant: str, matched_from: int | None, max_targets: int | None
) -> Protocol:
    """Check the settings and put them together.

    Raises:
        LengthError: no length; a length below 2 or above `matched_from`; a stride that would jump over tokens;
            an unknown variant; a `max_targets` below 1.
    """
    if not lengths:
        raise LengthError("no length to evaluate: give at least one")
    longest = max(lengths) if matched_from is None else matched_from
    for length in lengths:
        if not 2 <= length <= longest:
            raise LengthError(f"length {length} must lie between 2 and {longest}, the longest window compared")
        if stride is not None and not 1 <= stride < length:
            raise LengthError(f"stride {stride} does not fit length {length}: it must lie between 1 and {length - 1}")
    if variant not in ("matched", "all"):
        raise LengthError(f"unknown variant '{variant}': use 'matched' or 'all'")
    if max_targets is not None and max_targets < 1:
        raise LengthError(f"max_targets is {max_targets}: it must be at least 1")
    return Protocol(stride=stride, variant=variant, longest=longest, max_targets=max_targets)  # type: ignore[arg-type]


def spans(document: int, document_length: int, length: int, protocol: Protocol) -> Iterator[Span]:
    """Windows of `length` over one document, leaving out those in which nothing is scored.

    Windows start at 0, S, 2S, ...; the last is moved back to end with the document, so that every window is full.
    A token is scored once, in the first window that contains it.
    """
    body = length - 1
    first, last = protocol.first_target, protocol.last_target(document_length)
    start, covered = 0, 0
    while covered < last:
        end = start + body
        if end > first:
            yield Span(document, start, max(covered, first), min(end, last))
        covered = end
        start = min(start + protocol.stride_at(length), document_length - body)


def as_documents(ids: Any, vocab_size: int) -> list[Tensor]:
    """One document or several, each as a LongTensor [tokens] on the CPU.

    Raises:
        DataError: nothing given, a document that is not one-dimensional whole numbers, or a token outside the
            vocabulary.
    """
    given = [ids] if isinstance(ids, Tensor | np.ndarray) else list(ids)
    if not given:
        raise DataError("no document to evaluate: the list of token ids is empty")
    documents = []
    for number, document in enumerate(given):
        array = document.cpu().numpy() if isinstance(document, Tensor) else np.asarray(document)
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise DataError(
                f"document {number} has shape {array.shape} and type {array.dtype}: "
                "give 1-D whole-number token ids, or a list of them"
            )
        if array.size and not (int(array.min()) >= 0 and int(array.max()) < vocab_size):
            raise DataError(
                f"document {number} has tokens {array.min()} .. {array.max()}, the model's vocabulary is {vocab_size}: "
                "was the text tokenized with another tokenizer?"
            )
        documents.append(torch.from_numpy(array.astype(np.int64)))
    return documents


def long_enough(documents: Sequence[Tensor], needed: int) -> list[int]:
    """Numbers of the documents of at least `needed` tokens.

    Raises:
        DataError: there is none.
    """
    kept = [number for number, document in enumerate(documents) if len(document) >= needed]
    if not kept:
        longest = max(len(document) for document in documents)
        raise DataError(
            f"no document is long enough: the longest has {longest} tokens and {needed} are needed; "
            "give longer text or shorter lengths"
        )
    return kept
