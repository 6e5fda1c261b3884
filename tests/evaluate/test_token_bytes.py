"""Bytes per token against the bytes of the text itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from longspan.data.tokenizer import train_tokenizer
from longspan.evaluate import token_byte_counts

TEXT = "Ein Käfer, 12 kleine Käfer — and the grass is green.\n\tÜber Nacht\n"


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return train_tokenizer([TEXT * 3], 300, tmp_path_factory.mktemp("tokenizer") / "bpe")


def test_bytes_of_a_byte_level_text_add_up(byte_level: PreTrainedTokenizerFast) -> None:
    counts = token_byte_counts(byte_level, 320)
    assert len(counts) == 320
    for text in (TEXT, "漢字 and 🙂"):
        assert int(counts[byte_level(text, add_special_tokens=False)["input_ids"]].sum()) == len(text.encode())
    assert int(counts[byte_level.all_special_ids].sum()) == 0
    assert int(counts[len(byte_level) :].sum()) == 0


def test_sentencepiece_blanks_and_byte_pieces_are_one_byte_each() -> None:
    pieces = ["<s>", "<0xE4>", "<0x0A>", "\u2581", "\u2581K\u00e4", "fer"]
    backend = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    assert token_byte_counts(tokenizer).tolist() == [0, 1, 1, 1, 4, 3]


def test_bytes_of_a_real_vocabulary_add_up(data_dir: Callable[[str], Path]) -> None:
    path = data_dir("checkpoints") / "neox20b-tokenizer" / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<|endoftext|>")
    counts = token_byte_counts(tokenizer)
    assert int(counts[tokenizer(TEXT)["input_ids"]].sum()) == len(TEXT.encode())
