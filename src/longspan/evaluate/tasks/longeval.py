"""LongEval: the number in one of many lines, and the first topic of a long conversation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longspan.evaluate.external import metrics
from longspan.evaluate.external.reading import Parts, find_files, read_parts
from longspan.evaluate.external.suite import FileTask, Question


@dataclass(frozen=True, slots=True)
class LongEval(FileTask):
    """Answer on one of many lines, or on the first of several topics.

    Reads `N_lines.jsonl` or `N_topics.jsonl`, at each length the greatest whose prompts fit. Lines: right if the last
    number of the answer is the one in the line. Topics: right if the answer has the first topic in it, letter case,
    punctuation and articles apart (the authors ask a model for that verdict).
    Source: LongChat's LongEval (Li et al. 2023).
    """

    kind: Literal["lines", "topics"]

    @property
    def answer_tokens(self) -> int:
        return 100 if self.kind == "lines" else 50

    def files(self, folder: str | None) -> list[Path]:
        found = find_files(folder, f"*_{self.kind}.jsonl", f"longeval_{self.kind}")
        return sorted(found, key=lambda path: int((re.findall(r"^\d+", path.name) or ["0"])[0]))

    def questions(self, path: Path, most: int | None, depth: float | None) -> Parts:
        return read_parts(path, _line if self.kind == "lines" else _topic, most)

    def score_by(self, answer: str, question: Question) -> float:
        score = metrics.last_number if self.kind == "lines" else metrics.contains
        return score(answer, question.references[0])


def _line(row: dict[str, Any]) -> list[Question]:
    prompt = str(row["prompt"])
    number = str(int(row["expected_number"]))
    return [Question(prompt=prompt, references=(number,), evidence=prompt.index(str(row["correct_line"])))]


def _topic(row: dict[str, Any]) -> list[Question]:
    return [Question(prompt=str(row["prompt"]), references=(str(row["topics"][0]),))]


PRESETS = {f"longeval_{kind}": LongEval(kind) for kind in ("lines", "topics")}
GROUPS = {"longeval": tuple(PRESETS)}
