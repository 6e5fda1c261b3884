"""LooGLE: questions, cloze texts and summaries of very long documents."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from longspan.evaluate.external import metrics
from longspan.evaluate.external.reading import Parts, find_file, read_parts
from longspan.evaluate.external.suite import FileTask, Question

_QUESTION = "Please answer the question based on the long texts below.\n{input}\nQuestion: {Q}\nAnswer:"
_SUMMARY = "Please generate a summary of the below paper.\n{input}\nSummarization:"
_CLOZE = (
    "Please fill in the gaps of the question, which are written <mask-n>, with persons, places or organisations of the "
    "long text below; the same mask stands for the same one. Give a JSON object of masks and names.\n"
    "{input}\nQuestion: {Q} What are the masked entities?\nAnswer:"
)


@dataclass(frozen=True, slots=True)
class LooGLE(FileTask):
    """Answer the questions on the documents of one set of LooGLE.

    Reads `NAME.jsonl`; `qa_pairs` is a list written as Python text, and every pair is a sample. Questions and summaries
    are scored by ROUGE-L (F-measure; the authors give several scores, among them the recall), cloze texts by the share
    of masks with just the right name. Longer prompts are cut in the middle.
    Source: LooGLE (Li et al. 2023).
    """

    dataset: str
    tokens: int
    """Tokens that an answer may have."""

    overlong: ClassVar[str] = "cut"

    @property
    def score_name(self) -> str:
        return "recall" if self.dataset == "shortdep_cloze" else "rouge_l"

    @property
    def answer_tokens(self) -> int:
        return self.tokens

    def files(self, folder: str | None) -> list[Path]:
        metrics.check("masks" if self.dataset == "shortdep_cloze" else "rouge_l")
        return [find_file(folder, f"{self.dataset}.jsonl", f"loogle_{self.dataset}")]

    def questions(self, path: Path, most: int | None, depth: float | None) -> Parts:
        return read_parts(path, _questions, most)

    def score_by(self, answer: str, question: Question) -> float:
        score = metrics.masks if self.dataset == "shortdep_cloze" else metrics.rouge_l
        return score(answer, question.references[0])


def _questions(row: dict[str, Any]) -> Iterator[Question]:
    text = str(row["input"])
    pairs = ast.literal_eval(row["qa_pairs"]) if row["qa_pairs"] != "none" else []
    if not pairs:
        yield Question(prompt=_SUMMARY.format(input=text), references=(str(row["output"]),))
    for pair in pairs:
        template = _CLOZE if isinstance(pair["A"], dict) else _QUESTION
        yield Question(prompt=template.format(input=text, Q=pair["Q"]), references=(str(pair["A"]),))


_TOKENS = {"shortdep_qa": 300, "longdep_qa": 500, "longdep_summarization": 500, "shortdep_cloze": 50}
PRESETS = {f"loogle_{name}": LooGLE(name, tokens) for name, tokens in _TOKENS.items()}
GROUPS = {"loogle": tuple(PRESETS)}
