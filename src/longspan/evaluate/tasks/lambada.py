"""LAMBADA: the last word of a passage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from longspan.evaluate.external.reading import Parts, find_file, read_parts
from longspan.evaluate.external.suite import FileTask, Question
from longspan.evaluate.task import Sample


@dataclass(frozen=True, slots=True)
class Lambada(FileTask):
    """Guess the last word of a passage.

    Reads `lambada_test.jsonl` (text). Right if the tokens of the word are the most likely ones, one after the other;
    `nll` is in nats per word. A short-context check: what an extended model must not lose.
    Source: LAMBADA (Paperno et al. 2016), measured as is usual since GPT-2.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"data", "max_samples", "keep_samples"})
    by_token: ClassVar[bool] = True

    @property
    def answer_tokens(self) -> int:
        return 1

    def files(self, folder: str | None) -> list[Path]:
        return [find_file(folder, "lambada_test.jsonl", "lambada")]

    def questions(self, path: Path, most: int | None, depth: float | None) -> Parts:
        return read_parts(path, _question, most)

    def score_by(self, answer: str, question: Question) -> float:
        return float(answer.strip() == question.references[0])

    def nll_units(self, sample: Sample) -> int:
        return 1


def _question(row: dict[str, Any]) -> list[Question]:
    before, blank, word = str(row["text"]).rstrip().rpartition(" ")
    if not blank:
        raise ValueError("a text of one word")
    return [Question(prompt=before, references=(word,), chat=False)]


GROUPS = {"short": ("lambada",)}
