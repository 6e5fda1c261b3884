"""Multiple choice by log-likelihood: the ending that the model finds most likely."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from longspan.evaluate.external.reading import Parts, find_file, read_parts
from longspan.evaluate.external.suite import FileSample, FileTask, Question
from longspan.evaluate.task import Outcome, Sample


@dataclass(frozen=True, slots=True)
class MultipleChoice(FileTask):
    """Tell the right ending of a text from wrong ones, by their likelihood.

    Reads `multiple_choice.jsonl`: rows of `context`, `choices` (a list of endings) and `answer` (the place of the right
    one, from 0). The ending with the least loss is the model's choice: the loss of all its tokens, or, as
    `multiple_choice_bytes`, that by byte. `nll` is that of the right ending, by the same unit.
    Source: the scores acc and acc_norm of lm-evaluation-harness.
    """

    unit: Literal["ending", "byte"] = "ending"

    reads: ClassVar[frozenset[str]] = frozenset({"data", "max_samples", "keep_samples"})
    by_token: ClassVar[bool] = True

    @property
    def answer_tokens(self) -> int:
        return 1

    def files(self, folder: str | None) -> list[Path]:
        return [find_file(folder, "multiple_choice.jsonl", "multiple_choice")]

    def questions(self, path: Path, most: int | None, depth: float | None) -> Parts:
        numbers = itertools.count()
        return read_parts(path, lambda row: list(_endings(row, next(numbers))), most)

    def score_by(self, answer: str, question: Question) -> float:
        return float(question.right)

    def nll_units(self, sample: Sample) -> int:
        return 1 if self.unit == "ending" else len(sample.references[0].encode())

    def judged(self, found: Sequence[Outcome]) -> list[Outcome]:
        rows: dict[int, list[tuple[Question, Outcome]]] = {}
        for outcome in found:
            assert isinstance(outcome.sample, FileSample)
            rows.setdefault(outcome.sample.question.row, []).append((outcome.sample.question, outcome))
        return [_chosen(endings) for endings in rows.values() if len(endings) == endings[0][0].endings]


def _chosen(endings: Sequence[tuple[Question, Outcome]]) -> Outcome:
    """The outcome of the right ending, scored by whether it is the likeliest, with the likeliest as the answer."""
    import dataclasses

    chosen, _ = min(endings, key=lambda pair: pair[1].nll)
    right = next(outcome for question, outcome in endings if question.right)
    return dataclasses.replace(right, score=float(chosen.right), answer=chosen.references[0])


def _endings(row: dict[str, Any], number: int) -> Iterator[Question]:
    choices, answer = [str(choice) for choice in row["choices"]], int(row["answer"])
    if not 0 <= answer < len(choices):
        raise ValueError(f"answer {answer} is none of {len(choices)} choices")
    for place, choice in enumerate(choices):
        yield Question(
            prompt=str(row["context"]),
            references=(choice,),
            chat=False,
            row=number,
            endings=len(choices),
            right=place == answer,
        )


PRESETS = {"multiple_choice_bytes": MultipleChoice("byte")}
GROUPS = {"short": ("multiple_choice",)}
