"""A tokenizer that makes each character a token, and small files in the forms of external sets."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from longspan.evaluate.external.suite import FileTask, choose
from longspan.evaluate.known_models import known_model
from longspan.evaluate.task import Bench


@pytest.fixture(scope="session")
def letters() -> PreTrainedTokenizerFast:
    """Each character is a token, so lengths can be counted by hand; BOS is 0, the end of text 1."""
    alphabet = string.printable + "«»"
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2} | {letter: 3 + number for number, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern="", behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[str, Iterable[Any]], Path]:
    """rows("name.jsonl", [...]) writes a file of the folder `tmp_path`."""

    def write(name: str, found: Iterable[Any]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
        return path

    return write


@pytest.fixture
def bench(letters: PreTrainedTokenizerFast, tmp_path: Path) -> Callable[..., Bench]:
    """bench(length, ...) measures a blind model on files of `tmp_path`."""

    def make(*lengths: int, model: PreTrainedModel | None = None, **options: Any) -> Bench:
        blind = known_model([], len(letters), bos=0, end=1)
        return Bench(
            model=model or blind, tokenizer=letters, lengths=lengths, options={"data": str(tmp_path), **options}
        )

    return make


@pytest.fixture
def oracle(letters: PreTrainedTokenizerFast) -> Callable[..., PreTrainedModel]:
    """oracle(task, bench, window=None) gives the first right answer to every prompt, and then ends."""

    def make(task: FileTask, bench: Bench, depths: Iterable[float | None] = (None,), **how: Any) -> PreTrainedModel:
        samples = [
            sample
            for length in bench.lengths
            for depth in depths
            for sample in choose(task, bench, "task", length, depth)[1].samples
        ]
        return known_model(samples, len(letters), bos=0, end=1, **how)

    return make
