"""LongBench: 21 sets of long prompts, English, Chinese and code, with the score that each of them has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from longspan.errors import DataError
from longspan.evaluate.external import metrics
from longspan.evaluate.external.reading import Parts, find_file, read_parts
from longspan.evaluate.external.suite import FileTask, Question

TEMPLATES = "dataset2prompt.json"
_FIRST_LINE = frozenset({"trec", "triviaqa", "samsum", "lsht"})
_CONTINUED = _FIRST_LINE | {"lcc", "repobench-p"}


@dataclass(frozen=True, slots=True)
class LongBench(FileTask):
    """Answer the prompts of one set of LongBench.

    Reads the set's `NAME.jsonl` (context, input, answers), beside which `dataset2prompt.json` of LongBench's repository
    must stand, or `MiniLongBench_NAME.json`, whose prompts are whole. The best score by any right answer counts; of
    trec, triviaqa, samsum and lsht only the first line of an answer. Longer prompts are cut in the middle, by tokens.
    ROUGE-L is that of rouge-score, LongBench's own is that of the package rouge.
    Source: LongBench (Bai et al. 2023).
    """

    dataset: str
    score_is: str
    tokens: int
    """Tokens that an answer may have."""

    overlong: ClassVar[str] = "cut"

    @property
    def score_name(self) -> str:
        return self.score_is.removesuffix("_chinese")

    @property
    def answer_tokens(self) -> int:
        return self.tokens

    def files(self, folder: str | None) -> list[Path]:
        metrics.check(self.score_is)
        return [find_file(folder, f"*{self.dataset}.json*", f"longbench_{self.dataset}", _is_set(self.dataset))]

    def questions(self, path: Path, most: int | None, depth: float | None) -> Parts:
        return read_parts(path, lambda row: [self._question(row, path)], most)

    def _question(self, row: dict[str, Any], path: Path) -> Question:
        if "origin_prompt" in row:
            prompt, gold = str(row["origin_prompt"]), row["gold"]
            answers, classes = (gold["answers"], gold["all_classes"]) if isinstance(gold, dict) else (gold, ())
        else:
            prompt = _template(path, self.dataset).format(context=row["context"], input=row["input"])
            answers, classes = row["answers"], row.get("all_classes") or ()
        if not answers:
            raise ValueError("no right answer")
        return Question(
            prompt=prompt,
            references=tuple(map(str, answers)),
            classes=tuple(map(str, classes)),
            chat=self.dataset not in _CONTINUED,
        )

    def score_by(self, answer: str, question: Question) -> float:
        if self.dataset in _FIRST_LINE:
            answer = answer.lstrip("\n").split("\n")[0]
        if self.score_is == "classification":
            return max(metrics.classification(answer, right, question.classes) for right in question.references)
        return metrics.best(metrics.METRICS[self.score_is], answer, question.references)


def _is_set(dataset: str) -> frozenset[str]:
    """Names of the files of a set: `narrativeqa.jsonl`, not `mynarrativeqa.jsonl`."""
    return frozenset({f"{dataset}.jsonl", f"MiniLongBench_{dataset}.json"})


def _template(path: Path, dataset: str) -> str:
    place = path.parent / TEMPLATES
    if not place.is_file():
        raise DataError(f"{path} has no prompts of its own: put {TEMPLATES} of LongBench's config folder beside it")
    try:
        return str(json.loads(place.read_text(encoding="utf-8"))[dataset])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{place} has no prompt for {dataset}: get the file again") from error


_SETS = {
    "narrativeqa": ("f1", 128),
    "qasper": ("f1", 128),
    "multifieldqa_en": ("f1", 64),
    "multifieldqa_zh": ("f1_chinese", 64),
    "hotpotqa": ("f1", 32),
    "2wikimqa": ("f1", 32),
    "musique": ("f1", 32),
    "dureader": ("rouge_l_chinese", 128),
    "gov_report": ("rouge_l", 512),
    "qmsum": ("rouge_l", 512),
    "multi_news": ("rouge_l", 512),
    "vcsum": ("rouge_l_chinese", 512),
    "trec": ("classification", 64),
    "triviaqa": ("f1", 32),
    "samsum": ("rouge_l", 128),
    "lsht": ("classification", 64),
    "passage_count": ("number_share", 32),
    "passage_retrieval_en": ("number_share", 32),
    "passage_retrieval_zh": ("number_share", 32),
    "lcc": ("edit_similarity", 64),
    "repobench-p": ("edit_similarity", 64),
}
PRESETS = {f"longbench_{name}": LongBench(name, *how) for name, how in _SETS.items()}
GROUPS = {"longbench": tuple(PRESETS)}
