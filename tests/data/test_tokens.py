"""Token files: right, reused when nothing changed, remade when damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from longspan.data import tokens as tokens_module
from longspan.data.tokens import TokenFile, open_tokens, prepare_tokens
from longspan.errors import DataError, StorageError


@pytest.fixture
def source(corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus, tmp_path / "source"))


def prepare(source: Path, tokenizer: PreTrainedTokenizerFast, folder: Path) -> TokenFile:
    return prepare_tokens(source, tokenizer, folder, progress=False)


def test_documents_decode_to_their_text(
    token_file: TokenFile, corpus: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert token_file.names == ("a.md", "b.txt", "chapters/c.py")
    for index, name in enumerate(token_file.names):
        text = (corpus / name).read_text()
        assert tokenizer.decode(token_file.document(index)) == text
        assert token_file.bytes[index] == len(text.encode())
    with pytest.raises(IndexError):
        token_file.document(3)


def test_each_document_ends_with_the_end_of_text_token(
    token_file: TokenFile, tokenizer: PreTrainedTokenizerFast
) -> None:
    ends = np.flatnonzero(token_file.tokens == tokenizer.eos_token_id)
    assert ends.tolist() == (token_file.offsets[1:] - 1).tolist()
    assert isinstance(token_file.tokens, np.memmap)
    assert token_file.tokens.dtype == np.uint16
    assert len(token_file) == token_file.offsets[-1] == token_file.info["tokens"]


def test_unchanged_input_is_not_tokenized_again(
    source: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(source, tokenizer, tmp_path / "out")
    monkeypatch.setattr(tokens_module, "_write_tokens", lambda *_: pytest.fail("tokenized again"))
    again = prepare(source, tokenizer, tmp_path / "out")
    assert np.array_equal(made.tokens, again.tokens)
    assert made.info == again.info


def test_changed_text_is_tokenized_again(source: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    before = prepare(source, tokenizer, tmp_path / "out").info
    (source / "a.md").write_text("quite another text")
    after = prepare(source, tokenizer, tmp_path / "out")
    assert tokenizer.decode(after.document(0)) == "quite another text"
    assert after.info["text_sha256"] != before["text_sha256"]


def test_another_tokenizer_means_other_tokens(source: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    from longspan.data.tokenizer import train_tokenizer

    first = len(prepare(source, tokenizer, tmp_path / "out"))
    bytes_only = train_tokenizer(["x"], 259, tmp_path / "bytes")
    second = prepare(source, bytes_only, tmp_path / "out")
    assert len(second) == sum(second.bytes) + 3 > first  # one token a byte, and the end of each document


@pytest.mark.parametrize("damage", ["truncated", "missing", "changed", "json"])
def test_damaged_files_are_made_again(
    source: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, damage: str
) -> None:
    expected = np.array(prepare(source, tokenizer, tmp_path / "out").tokens)
    path = tmp_path / "out" / "tokens.bin"
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:100])
    elif damage == "missing":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(b"\x05\x01" + content[2:])
    else:
        (tmp_path / "out" / "data.json").write_text("{")
    assert np.array_equal(prepare(source, tokenizer, tmp_path / "out").tokens, expected)


def test_opening_a_truncated_file_is_an_error_that_says_the_sizes(
    source: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    size = prepare(source, tokenizer, tmp_path / "out").tokens.nbytes
    (tmp_path / "out" / "tokens.bin").write_bytes(b"12")
    with pytest.raises(DataError, match=f"2 bytes instead of {size}"):
        open_tokens(tmp_path / "out")


def test_an_interrupted_run_leaves_nothing_behind(
    source: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tokens_module, "_write_batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tokenizer, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_data_json_has_counts_and_hashes(token_file: TokenFile, corpus: Path) -> None:
    info = json.loads(json.dumps(token_file.info))
    assert info["bytes"] == sum(path.stat().st_size for path in corpus.rglob("*.*"))
    assert sum(document["tokens"] for document in info["documents"]) == info["tokens"]
    assert all(len(info[f"{name}_sha256"]) == 64 for name in ("text", "tokenizer", "tokens"))


def test_empty_text_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="holds no text"):
        prepare(tmp_path / "empty.txt", tokenizer, tmp_path / "out")


def test_a_full_disk_is_said_and_leaves_nothing(
    source: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, small_disk: Callable
) -> None:
    with small_disk(), pytest.raises(StorageError, match="cannot write"):
        prepare(source, tokenizer, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
