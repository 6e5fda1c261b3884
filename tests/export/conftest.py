from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import longspan
from conftest import VOCAB_SIZE, make_model
from longspan.data.tokenizer import train_tokenizer


@pytest.fixture
def extended(tiny_model: Callable[[str], PreTrainedModel], tmp_path: Path) -> Callable[..., PreTrainedModel]:
    """extended("yarn") is a tiny Llama under that method, saved to tmp_path/"source"."""

    def make(
        methods: str, family: str = "llama", target_length: int = 256, tokenizer: PreTrainedTokenizerFast | None = None
    ) -> PreTrainedModel:
        model = tiny_model(family)
        longspan.extend(model, methods, target_length=target_length)
        model.save_pretrained(tmp_path / "source")
        if tokenizer is not None:
            tokenizer.save_pretrained(tmp_path / "source")
        return model.eval()

    return make


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory, book: Path) -> PreTrainedTokenizerFast:
    """A tokenizer as training makes it, of 320 pieces."""
    return train_tokenizer([book.read_text()], 320, tmp_path_factory.mktemp("words") / "tokenizer")


@pytest.fixture
def with_words(words: PreTrainedTokenizerFast, tmp_path: Path) -> Callable[..., PreTrainedModel]:
    """with_words("yarn", "qwen2") is such a model, saved with a tokenizer to tmp_path/"source"."""

    def make(
        methods: str = "rope",
        family: str = "llama",
        *,
        target_length: int = 256,
        tokenizer: PreTrainedTokenizerFast = words,
        **settings: object,
    ) -> PreTrainedModel:
        ids = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
        model = make_model(family, **{**ids, "eos_token_id": tokenizer.eos_token_id, **settings})
        longspan.extend(model, methods, target_length=target_length)
        model.save_pretrained(tmp_path / "source")
        tokenizer.save_pretrained(tmp_path / "source")
        return model.eval()

    return make


@pytest.fixture
def without_longspan(tmp_path: Path) -> Callable[..., str]:
    """without_longspan(code, "a", installed=False) runs code in a process of its own and returns its stdout.

    Nothing imports longspan there but what the code loads; unless it is installed, that cannot either.
    """

    def run(code: str, *arguments: object, installed: bool = True) -> str:
        hidden = "" if installed else "import sys; sys.modules['longspan'] = None\n"
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "TRANSFORMERS_VERBOSITY": "error"}
        done = subprocess.run(
            [sys.executable, "-c", hidden + code, *map(str, arguments)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def tokens(length: int, batch: int = 1) -> torch.Tensor:
    """The same token ids every time."""
    return torch.randint(3, VOCAB_SIZE, (batch, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def logits(model: PreTrainedModel, length: int) -> torch.Tensor:
    return model(tokens(length)).logits
