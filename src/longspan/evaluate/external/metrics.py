"""Scores of answers by the rules of the sets they come from; each is 0 to 1, for one answer and one reference.

Sources: LongBench (Bai et al. 2023, `metrics.py`), L-Eval (An et al. 2023, `em.py`), SQuAD (Rajpurkar et al. 2016) for
the normalisation. ROUGE is that of rouge-score, the edit similarity that of rapidfuzz. Chinese text is cut into words
by jieba.
"""

from __future__ import annotations

import ast
import importlib
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from longspan.errors import ConfigError

Metric = Callable[[str, str], float]
"""The score of an answer (first) by a reference (second)."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = frozenset("`#")


def normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and further blanks."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def token_f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Harmonic mean of the shares of the words of either that the other has, too; each occurrence counts once."""
    common = sum((Counter(answer) & Counter(reference)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(answer), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def f1(answer: str, reference: str) -> float:
    """F1 of the normalised words."""
    return token_f1(normalised(answer).split(), normalised(reference).split())


def f1_chinese(answer: str, reference: str) -> float:
    """F1 of the words that jieba finds, without punctuation."""
    return token_f1(_chinese_words(answer), _chinese_words(reference))


def _chinese_words(text: str) -> list[str]:
    words = ("".join(filter(_is_no_mark, word.lower())) for word in _segmented(text))
    return [word for word in words if word]


def _is_no_mark(letter: str) -> bool:
    # signs that say something, like ℃ and ￥, stay; those that are wide forms of ASCII's go with them
    plain = unicodedata.normalize("NFKC", letter)
    return unicodedata.category(letter)[0] not in "PZC" and plain not in string.punctuation


def _segmented(text: str) -> list[str]:
    return list(_library("jieba", "jieba").cut(text, cut_all=False))


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common row of words (ROUGE-L), not stemmed."""
    return _rouge(answer, reference, None)


def rouge_l_chinese(answer: str, reference: str) -> float:
    """ROUGE-L of the words that jieba finds."""
    return _rouge(answer, reference, _Segmenter())


class _Segmenter:
    """Cuts Chinese text into words; the one of rouge-score drops whatever is not ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return [word for word in _segmented(text) if word.strip()]


def _rouge(answer: str, reference: str, tokenizer: _Segmenter | None) -> float:
    scorer = _library("rouge_score.rouge_scorer", "rouge-score").RougeScorer(["rougeL"], tokenizer=tokenizer)
    return float(scorer.score(reference, answer)["rougeL"].fmeasure)


def edit_similarity(answer: str, reference: str) -> float:
    """Likeness of the first line of code with `reference`: 1 less the share of letters to put in or take out.

    Lines with a backtick, `#` or `//` are passed over, as they are no code.
    """
    lines = answer.lstrip("\n").split("\n")
    code = next((line for line in lines if not _MARKS & set(line) and "//" not in line), "")
    return float(_library("rapidfuzz.fuzz", "rapidfuzz").ratio(code, reference)) / 100


def classification(answer: str, reference: str, classes: Sequence[str]) -> float:
    """1 over how many of `classes` the answer names, if the right one is among them.

    A class whose name is a part of the right one's is not held against it.
    """
    named = [name for name in classes if name in answer]
    named = [name for name in named if name == reference or name not in reference]
    return 1 / len(named) if reference in named else 0.0


def number_share(answer: str, reference: str) -> float:
    """Share of the numbers in the answer that are the one in `reference`: counting, and naming a paragraph."""
    wanted = re.search(r"\d+", reference)
    numbers = re.findall(r"\d+", answer)
    return numbers.count(wanted[0]) / len(numbers) if wanted and numbers else 0.0


def last_number(answer: str, reference: str) -> float:
    """Whether the last number of the answer is `reference`."""
    numbers = re.findall(r"\d+", answer)
    return float(bool(numbers) and int(numbers[-1]) == int(reference))


def contains(answer: str, reference: str) -> float:
    """Whether the normalised answer has the normalised reference in it, as whole words."""
    return float(f" {normalised(reference)} " in f" {normalised(answer)} ")


def one_choice(answer: str, reference: str) -> float:
    """Whether the first of the letters A to D in the answer is the first in `reference`."""
    said, right = (re.search("[A-D]", text) for text in (answer, reference))
    return float(said is not None and right is not None and said[0] == right[0])


def several_choices(answer: str, reference: str) -> float:
    """1 for just the right letters of A to D, a quarter for some of them and no wrong one.

    The answer's letters are those that it begins with, if there are several; else those that stand alone in it.
    """
    right = set(re.findall("[A-D]", reference.split()[0])) if reference.split() else set()
    begun = re.match(r"[A-D]{2,}(?![a-z])", answer.strip())
    said = set(begun[0]) if begun else set(re.findall(r"\b[A-D]\b", answer))
    if said == right:
        return 1.0
    return 0.25 if said and said < right else 0.0


def final_number(answer: str, reference: str) -> float:
    """Whether the number after «The answer is», or else the last of the first paragraph, is that of `reference`."""
    return float(_final(answer) == _final(reference) != "")


def _final(text: str) -> str:
    stated = re.search(r"The answer is (\S+)", text)
    if stated:
        words = [stated[1]]
    else:
        words = [word for word in text.split("\n\n")[0].split() if any(map(str.isdigit, word))][-1:]
    return re.sub(r"\D", "", words[0].partition(".")[0]) if words else ""


def true_and_fact(answer: str, reference: str) -> float:
    """Share of two judgements that are right: by the document, and `[fact: ...]` by the world."""
    said, right = _judged(answer), _judged(reference)
    return sum(a == b is not None for a, b in zip(said, right, strict=True)) / 2


def _judged(text: str) -> tuple[str | None, str | None]:
    document, _, world = text.lower().partition("[fact:")
    first, second = (re.search("true|false", part) for part in (document, world))
    return first and first[0], second and second[0]


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"this score needs {package}: pip install 'longspan[suites]'") from error


def masks(answer: str, reference: str) -> float:
    """Share of the masks of `reference`, a dictionary as text, that the answer's dictionary fills as it does."""
    right, said = ast.literal_eval(reference), _dictionary(answer)
    return sum(said.get(mask) == name for mask, name in right.items()) / len(right)


def _dictionary(text: str) -> dict[Any, Any]:
    written = re.search(r"\{[^{}]*\}", text)
    try:
        found = ast.literal_eval(written[0]) if written else {}
    except (ValueError, SyntaxError):
        return {}
    return found if isinstance(found, dict) else {}


METRICS: dict[str, Metric] = {
    score.__name__: score
    for score in (
        f1,
        f1_chinese,
        rouge_l,
        rouge_l_chinese,
        edit_similarity,
        number_share,
        last_number,
        contains,
        one_choice,
        several_choices,
        final_number,
        true_and_fact,
    )
}
"""Scores of an answer by one reference, by name."""


def best(metric: Metric, answer: str, references: Sequence[str]) -> float:
    """The best score by any of the right answers."""
    return max(metric(answer, reference) for reference in references)


def check(name: str) -> None:
    """Make sure that the libraries of a score are there, before a model answers anything.

    Raises:
        ConfigError: one is not installed.
    """
    if name in METRICS:
        METRICS[name]("A 1", "A 1")
