"""A small tokenizer and token file, made from generated text."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from longspan.data.passkey import FILLER, KEY_SENTENCE, QUESTION, TASK
from longspan.data.tokenizer import train_tokenizer
from longspan.data.tokens import TokenFile, prepare_tokens

WORDS = [
    "river",
    "stone",
    "lamp",
    "42",
    "window",
    "7",
    "copper",
    "1999",
    "bird,",
    "cloud.",
    "paper;",
    "winter?",
    "Summer!",
]


def prose(words: int, seed: int = 0) -> str:
    """A text of `words` random words, some of them numbers."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, size=words))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """512 tokens, single digits, trained on generated prose and the words of the passkey template."""
    texts = [prose(3000), " ".join([TASK, *FILLER, KEY_SENTENCE, QUESTION] * 20)]
    return train_tokenizer(texts, 512, tmp_path_factory.mktemp("tokenizer") / "tokenizer")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three documents, one in a sub-folder."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "chapters").mkdir()
    for seed, name in enumerate(("b.txt", "a.md", "chapters/c.py")):
        (folder / name).write_text(prose(800, seed), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def token_file(corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> TokenFile:
    return prepare_tokens(corpus, tokenizer, tmp_path_factory.mktemp("tokens"), progress=False)


@contextlib.contextmanager
def _small_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Inside `with small_disk():` writing more than 1,000 bytes to a file fails, as where no space is left.

    Not for a whole test: pytest itself may be writing to a file.
    """
    return _small_disk
