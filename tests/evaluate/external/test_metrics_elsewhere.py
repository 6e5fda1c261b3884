"""Scores of answers against the numbers that the sets' own code gave to the same answers, and where the two part."""

from __future__ import annotations

import pytest

from longspan.evaluate.external import metrics

ROUNDED = 0.005 + 1e-9
"""The edit similarity of fuzzywuzzy, which LongBench takes, is a whole number of hundredths."""
CLASSES = ["Date", "Date of birth", "Person", "Person of note", "Abbreviation", "Abb", "A"]


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("It was John F. Kennedy.", "John F. Kennedy", 0.75),
        ("the 1,024-token window", "1024 token window", 0.4),
        ('He said: "a man, a plan"', "man plan", 0.6666666667),
        ("don't know", "do not know", 0.4),
        ("naïve café", "Naïve cafe", 0.5),
        ("cat cat dog dog dog", "cat dog dog mouse", 0.6666666667),
    ],
)
def test_f1_is_that_of_longbench_and_of_leval(answer: str, reference: str, score: float) -> None:
    assert metrics.f1(answer, reference) == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("我来到北京。", "我来到北京清华大学", 0.8571428571),
        ("中国的首都是北京", "北京是中国首都。", 0.8888888889),
        ("他在2019年出生于上海市", "2019年，上海", 0.2222222222),
        ("GPT-4 是 OpenAI 的模型", "OpenAI的GPT-4模型", 0.9090909091),
        ("价格为￥3.5（约）", "价格约3.5元", 0.6666666667),
    ],
)
def test_f1_of_chinese_is_that_of_longbench(answer: str, reference: str, score: float) -> None:
    pytest.importorskip("jieba")
    assert metrics.f1_chinese(answer, reference) == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("\n# a comment\nreturn x + 1\nreturn y", "return x - 1", 0.92),
        ("    for i in range(10):", "for (int i = 0; i < 10; i++) {", 0.42),
        ("```python\nimport os\n```", "import sys", 0.84),
        ("// nope", "return", 0.0),
        ("self.assertEqual(a, b)", "self.assertEquals(b, a)", 0.89),
    ],
)
def test_the_likeness_of_code_is_that_of_longbench_but_for_its_rounding(
    answer: str, reference: str, score: float
) -> None:
    pytest.importorskip("rapidfuzz")
    assert metrics.edit_similarity(answer, reference) == pytest.approx(score, abs=ROUNDED)


@pytest.mark.parametrize(
    ("answer", "reference", "score", "longbench"),
    [
        ("Date of birth", "Date", 0.5, 0.5),
        ("Person and Date", "Date", 0.5, 0.5),
        ("nothing", "Date", 0.0, 0.0),
        # its loop takes names out of the list that it walks through, and so passes over the next one
        ("Type: Abbreviation", "Abbreviation", 1.0, 0.5),
        ("Abbreviation, Person", "Abbreviation", 0.5, 1 / 3),
    ],
)
def test_classes_are_scored_as_by_longbench_but_for_names_that_it_passes_over(
    answer: str, reference: str, score: float, longbench: float
) -> None:
    found = metrics.classification(answer, reference, CLASSES)
    assert found == pytest.approx(score)
    assert (found == pytest.approx(longbench)) == (score == longbench)


@pytest.mark.parametrize(
    ("answer", "reference", "score", "leval"),
    [
        ("DB and nothing else", "BD", 1.0, 1.0),
        ("The answers are B. and D.", "BD", 1.0, 1.0),
        ("B) and D)", "BD", 1.0, 1.0),
        ("B D", "BD", 1.0, 0.25),  # it asks for a blank, a full stop or a bracket behind each letter
        ("A and C", "AC", 1.0, 0.25),
        ("AB", "BD", 0.0, 0.0),
        ("I think A is wrong. B.", "B", 0.0, 0.0),
        ("B. The second", "B", 1.0, 1.0),
        ("Answer: C", "C", 1.0, 0.0),  # it reads the A of the first word
        ("Because", "B", 0.0, 1.0),
    ],
)
def test_several_letters_are_scored_as_by_leval_but_for_letters_in_words_and_at_the_end(
    answer: str, reference: str, score: float, leval: float
) -> None:
    found = metrics.several_choices(answer, reference)
    assert found == score
    assert (found == leval) == (score == leval)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("It is D.", "D", 1.0),
        ("Answer: B", "B", 0.0),
        ("I Can: D", "D", 0.0),
        ("ABCD", "C", 0.0),
    ],
)
def test_one_letter_is_scored_as_by_leval(answer: str, reference: str, score: float) -> None:
    assert metrics.one_choice(answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("so 3 + 4. The answer is $1,800.50", "The answer is 1800", 1.0),
        ("She pays 5*4=20", "The answer is 20", 0.0),
        ("The answer is 1.5", "The answer is 1", 1.0),
        ("The answer is 7 apples", "The answer is 7", 1.0),
    ],
)
def test_sums_are_scored_as_by_leval(answer: str, reference: str, score: float) -> None:
    assert metrics.final_number(answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("a short summary of long reports", "the summary is short and of reports", 0.46153846),
        ("seas rise fast while ice melts", "ice melts fast while seas rise slowly", 0.3076923),
        ("costs rose by twelve percent last year", "last year costs rose by twelve percent", 0.71428571),
    ],
)
def test_rouge_l_is_that_of_the_package_rouge_on_a_plain_sentence(answer: str, reference: str, score: float) -> None:
    # one sentence of different words in lower case; elsewhere the package, which LongBench and LooGLE take, parts ways
    pytest.importorskip("rouge_score")
    assert metrics.rouge_l(answer, reference) == pytest.approx(score, abs=1e-7)
