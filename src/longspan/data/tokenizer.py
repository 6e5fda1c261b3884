"""The tokenizer trained for small models: byte-level BPE in which every digit is a token of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from longspan.errors import CheckpointError, ConfigError, DataError
from longspan.files import replacing_folder

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SMALLEST_VOCAB = 256 + len((BOS, EOS, PAD))
"""Every byte and the three special tokens: below this some text could not be written."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, out: Path) -> PreTrainedTokenizerFast:
    """Learn `vocab_size` tokens from `texts` and save the tokenizer as the folder `out`, whole or not at all.

    Every text can be written (bytes are the alphabet), and decoding gives it back unchanged. `tokenizer(text)` puts
    `<s>` in front, as generation needs it; `add_special_tokens=False` leaves it out. The same texts in the same order
    give the same file. A short text may not hold that many pairs: `len(tokenizer)` says what was learned.

    Raises:
        ConfigError: `vocab_size` is below 259, the bytes and the special tokens.
        DataError: there is no text.
    """
    if vocab_size < SMALLEST_VOCAB:
        raise ConfigError(f"vocab_size {vocab_size} is too small: it needs at least {SMALLEST_VOCAB} (every byte)")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    counted = _Counted(texts)
    backend.train_from_iterator(counted, trainer)
    if not counted.characters:
        raise DataError("the tokenizer has no text to learn from: name a source that is not empty")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    with replacing_folder(out) as folder:
        _save(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=PAD), folder)
    return load_tokenizer(out)


def _save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    # tokenizers raises bare Exception where the operating system refuses to write
    except Exception as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from error


class _Counted:
    """Passes texts on and remembers whether there was anything in them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.characters = 0

    def __iter__(self) -> Any:
        for text in self._texts:
            self.characters += len(text)
            yield text


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in `folder`.

    Raises:
        CheckpointError: the folder has no tokenizer, or its files are truncated or corrupt.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder} holds no tokenizer (no tokenizer.json): name the folder of a trained model")
    try:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            json.loads((folder / name).read_text(encoding="utf-8"))
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # tokenizers raises bare Exception for a file that is JSON but no tokenizer
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{folder}: the tokenizer is corrupt ({reason}); restore or retrain it") from error


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of `text` and no others: no BOS, no warning about its length."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what decides how `tokenizer` cuts text, as hexadecimal digits."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = (
        backend.to_str() if backend else json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    )
    return hashlib.sha256(state.encode()).hexdigest()
