"""The trained tokenizer: single digits, no loss, same file from the same text, clear errors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from longspan.data.tokenizer import encode, load_tokenizer, train_tokenizer
from longspan.errors import CheckpointError, ConfigError, DataError, StorageError

TEXT = "The year 1984 was followed by the year 1985, and the year 1985 by the year 1986. " * 30


def test_every_digit_is_a_token_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = encode(tokenizer, "in 1984")
    assert [tokenizer.decode([token]) for token in ids[-4:]] == ["1", "9", "8", "4"]
    digits = [
        token for token in tokenizer.get_vocab() if any(letter.isdigit() and letter.isascii() for letter in token)
    ]
    assert sorted(digits) == list("0123456789")


@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_decoding_gives_any_text_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_bos_stands_in_front_unless_special_tokens_are_off(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    assert tokenizer("stone")["input_ids"] == [tokenizer.bos_token_id, *encode(tokenizer, "stone")]
    assert tokenizer.bos_token_id not in encode(tokenizer, "stone")


def test_the_size_asked_for_is_the_size_made(tmp_path: Path) -> None:
    assert len(train_tokenizer([TEXT], 270, tmp_path / "tokenizer")) == 270


def test_the_same_text_makes_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_tokenizer([TEXT], 300, tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_beside_a_llama_config_the_tokenizer_stays_itself(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """AutoTokenizer picks a class by the model's type; a Llama class would rebuild the digits' rule away."""
    tokenizer.save_pretrained(tmp_path)
    LlamaConfig(vocab_size=512).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "  In 1984,\n\n\tthe river  was silver."
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_vocabulary_smaller_than_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 259"):
        train_tokenizer([TEXT], 200, tmp_path / "tokenizer")


def test_no_text_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text to learn from"):
        train_tokenizer([], 300, tmp_path / "tokenizer")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "not a tokenizer", "not text"])
def test_a_corrupt_tokenizer_is_said_in_one_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, file: str, damage: str
) -> None:
    folder = tmp_path / "tokenizer"
    tokenizer.save_pretrained(folder)
    content = (folder / file).read_bytes()
    damaged = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "not a tokenizer": b"[1, 2]",
        "not text": b"\xff\xfe\x00",
    }
    (folder / file).write_bytes(damaged[damage])
    with pytest.raises(CheckpointError) as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    shutil.rmtree(folder)


def test_a_full_disk_is_said_and_leaves_no_folder(tmp_path: Path, small_disk: Callable) -> None:
    with small_disk(), pytest.raises(StorageError, match="cannot write"):
        train_tokenizer([TEXT], 300, tmp_path / "tokenizer")
    assert not list(tmp_path.iterdir())
