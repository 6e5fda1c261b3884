"""Prompts of RULER's own generators, and its own scorer, from a copy of its repository.

Its scripts run as they are, with the settings of its `synthetic.yaml` and the words of its `constants.py`. The essays
need a download: tasks that hide needles in them get the sentences that repeat, as ours do here.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

Scorer = Callable[[list[str], list[list[str]]], float]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of RULER and its right answer."""

    text: str
    """With the words that the answer follows."""
    references: tuple[str, ...]
    needed: int
    """Character of `text` from which on the answer needs it: the first line that holds a right value."""


class Ruler:
    """A copy of RULER's repository."""

    def __init__(self, folder: Path, tokenizer: Path) -> None:
        """Prompts are made to fit lengths in the tokens of the Hugging Face tokenizer in the folder `tokenizer`."""
        self._scripts, self._tokenizer = folder / "scripts", tokenizer
        self._tasks = yaml.safe_load((self._scripts / "synthetic.yaml").read_text(encoding="utf-8"))
        self._words = _module(self._scripts / "data/synthetic/constants.py").TASKS
        self._scorers = _module(self._scripts / "eval/synthetic/constants.py").TASKS

    def score(self, name: str, answer: str, references: tuple[str, ...]) -> float:
        """RULER's score of one answer, 0 to 1."""
        scorer: Scorer = self._scorers[self._tasks[name]["task"]]["metric_fn"]
        return scorer([answer], [list(references)]) / 100

    def new_tokens(self, name: str) -> int:
        """Tokens that RULER lets an answer have, and counts in the length."""
        return int(self._words[self._tasks[name]["task"]]["tokens_to_generate"])

    def prompts(self, name: str, length: int, count: int, answer: int | None = None, seed: int = 0) -> list[Prompt]:
        """`count` prompts of the task `name`.

        Args:
            length: tokens of prompt and answer together, at most.
            answer: tokens of it that are kept for the answer; None: as many as RULER keeps.
        """
        kind, settings = self._tasks[name]["task"], dict(self._tasks[name]["args"])
        if settings.get("type_haystack") == "essay":
            settings["type_haystack"] = "noise"
        template = self._words[kind]["template"] + self._words[kind]["answer_prefix"]
        with tempfile.TemporaryDirectory() as out:
            told: dict[str, Any] = {
                "save_dir": out, "save_name": name, "tokenizer_path": self._tokenizer, "tokenizer_type": "hf",
                "max_seq_length": length, "num_samples": count, "template": template, "random_seed": seed,
                "tokens_to_generate": self.new_tokens(name) if answer is None else answer, **settings,
            }  # fmt: skip
            _run(self._scripts / "data/synthetic" / f"{kind}.py", told)
            rows = (Path(out) / name / "validation.jsonl").read_text(encoding="utf-8").splitlines()
        head = template.partition("{context}")[0].rpartition("}")[2][-20:]
        return [_prompt(json.loads(row), head) for row in rows]


@contextmanager
def opened(folder: Path, tokenizer: Path) -> Iterator[tuple[Ruler, PreTrainedTokenizerBase]]:
    """RULER from `folder`, and the tokenizer of its prompts, whose folder may hold nothing but `tokenizer.json`."""
    if (tokenizer / "tokenizer_config.json").exists():
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    else:
        loaded = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer / "tokenizer.json"))
    with tempfile.TemporaryDirectory() as saved:
        loaded.save_pretrained(saved)
        yield Ruler(folder, Path(saved)), loaded


def _prompt(row: dict[str, Any], head: str) -> Prompt:
    text = row["input"] + row["answer_prefix"]
    context = text.rindex(head) + len(head)  # behind a worked example, where there is one
    first = min(text.index(value, context) for value in row["outputs"])
    return Prompt(text, tuple(row["outputs"]), text.rindex("\n", 0, first))


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ruler_{path.parts[-3]}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(script: Path, told: dict[str, Any]) -> None:
    """One of its scripts as if from the command line, in this process: its imports are slow."""
    with _found_first(script.parent), _quiet():
        before, sys.argv = sys.argv, [str(script), *(f"--{key}={value}" for key, value in told.items())]
        try:
            runpy.run_path(str(script), run_name="__main__")
        finally:
            sys.argv = before


@contextmanager
def _found_first(folder: Path) -> Iterator[None]:
    """Modules of the script's own folder before all others."""
    before, names = list(sys.path), ("constants", "tokenizer", "manifest_utils")
    sys.path[:0] = [str(folder), str(folder.parent)]
    try:
        yield
    finally:
        sys.path[:] = before
        for name in names:
            sys.modules.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
