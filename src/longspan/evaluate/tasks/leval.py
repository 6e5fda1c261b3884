"""L-Eval: questions on long documents, with exam answers, F1 or ROUGE."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from longspan.evaluate.external import metrics
from longspan.evaluate.external.reading import Parts, find_file, read_parts
from longspan.evaluate.external.suite import FileTask, Question

_PROMPT = "Read the following document, and then do what is asked.\n\n{document}\n\n{instruction}\nAnswer:"


@dataclass(frozen=True, slots=True)
class LEval(FileTask):
    """Answer the questions on the documents of one set of L-Eval.

    Reads `NAME.jsonl` (input, instructions, outputs, evaluation): every question of a document is a sample, except
    those that the set wants a person or a model to judge. Exams: the letter (coursera: all right letters, a quarter for
    some of them), the number (gsm100), or the share of two judgements (sci_fi). No letter is no guess, where the
    authors take A. The prompt is ours. Longer prompts are cut in the middle.
    Source: L-Eval (An et al. 2023).
    """

    dataset: str
    score_is: str
    tokens: int
    """Tokens that an answer may have."""

    overlong: ClassVar[str] = "cut"

    @property
    def score_name(self) -> str:
        return self.score_is if self.score_is in ("f1", "rouge_l") else "accuracy"

    @property
    def answer_tokens(self) -> int:
        return self.tokens

    def files(self, folder: str | None) -> list[Path]:
        metrics.check(self.score_is)
        return [find_file(folder, f"{self.dataset}.jsonl", f"leval_{self.dataset}")]

    def questions(self, path: Path, most: int | None, depth: float | None) -> Parts:
        return read_parts(path, functools.partial(_questions, few_shot=self.dataset == "gsm100"), most)

    def score_by(self, answer: str, question: Question) -> float:
        return metrics.best(metrics.METRICS[self.score_is], answer, question.references)


def _questions(row: dict[str, Any], few_shot: bool) -> Iterator[Question]:
    document, asked, right = str(row["input"]), row["instructions"], row["outputs"]
    if row["evaluation"] in ("human", "LLM"):
        return
    for instruction, answer in zip(asked, right, strict=True):
        # worked examples are gone on with; anything else is asked
        prompt = f"{document}{instruction}" if few_shot else _PROMPT.format(document=document, instruction=instruction)
        yield Question(prompt=prompt, references=(str(answer),), chat=not few_shot)


_SETS = {
    "coursera": ("several_choices", 32),
    "gsm100": ("final_number", 512),
    "quality": ("one_choice", 32),
    "sci_fi": ("true_and_fact", 32),
    "tpo": ("one_choice", 32),
    "financial_qa": ("f1", 128),
    "legal_contract_qa": ("f1", 128),
    "multidoc_qa": ("f1", 128),
    "narrative_qa": ("f1", 128),
    "natural_question": ("f1", 128),
    "scientific_qa": ("f1", 128),
    "gov_report_summ": ("rouge_l", 512),
    "meeting_summ": ("rouge_l", 512),
    "news_summ": ("rouge_l", 512),
    "paper_assistant": ("rouge_l", 512),
    "patent_summ": ("rouge_l", 512),
    "review_summ": ("rouge_l", 512),
    "tv_show_summ": ("rouge_l", 512),
}
PRESETS = {f"leval_{name}": LEval(name, *how) for name, how in _SETS.items()}
GROUPS = {"leval": tuple(PRESETS)}
