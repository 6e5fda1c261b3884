"""How many bytes of text each token stands for: turns nats per token into bits per byte across tokenizers."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SENTENCEPIECE_BLANK = "\u2581"


def token_byte_counts(tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None) -> Tensor:
    """UTF-8 bytes of each token id, LongTensor [vocab_size]; special tokens and unused ids count 0.

    Args:
        tokenizer: byte-level BPE, where each character of a piece is one byte, or SentencePiece-like, where a piece
            is text with a mark for the blank.
        vocab_size: entries of the model's embedding, when they are more than the tokenizer has.
    """
    counts = torch.zeros(max(len(tokenizer), vocab_size or 0), dtype=torch.long)
    special = set(tokenizer.all_special_ids)
    pieces = {number: piece for piece, number in tokenizer.get_vocab().items() if number not in special}
    byte_level = _is_byte_level(tokenizer)
    for number, piece in pieces.items():
        if byte_level:
            counts[number] = len(piece)
        elif _BYTE_PIECE.fullmatch(piece):
            counts[number] = 1
        else:
            counts[number] = len(piece.replace(_SENTENCEPIECE_BLANK, " ").encode())
    return counts


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in repr(backend.decoder)
