"""Scores of external sets against numbers worked out by hand from the rules of their papers and code."""

from __future__ import annotations

import pytest

from longspan.evaluate.external import metrics


def test_normalising_drops_case_punctuation_articles_and_blanks() -> None:
    assert metrics.normalised("  The U.S.A.'s  answer, an apple!\n") == "usas answer apple"


def test_an_article_inside_a_word_stays() -> None:
    assert metrics.normalised("Theory of Anna") == "theory of anna"


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("The cat sat.", "a cat sat", 1.0),
        ("cat sat on mat", "cat mat", 2 / 3),  # precision 2/4, recall 2/2
        ("cat cat cat", "cat", 0.5),  # one of three is common: 1/3 and 1/1
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("the", "a", 0.0),  # nothing is left of either
    ],
)
def test_f1_of_words(answer: str, reference: str, score: float) -> None:
    assert metrics.f1(answer, reference) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # Lin 2004: 3 of 4 words in common, in order
        ("police kill the gunman", "police kill the gunman", 1.0),
        ("the gunman kill police", "police kill the gunman", 2 / 4),
        ("gunman", "police kill the gunman", 2 * 1 * 0.25 / 1.25),
        ("", "police", 0.0),
    ],
)
def test_rouge_l_is_that_of_its_paper(answer: str, reference: str, score: float) -> None:
    pytest.importorskip("rouge_score")
    assert metrics.rouge_l(answer, reference) == pytest.approx(score)


def test_edit_similarity_is_of_the_first_line_of_code() -> None:
    pytest.importorskip("rapidfuzz")
    assert metrics.edit_similarity("\n# a comment\nreturn x\nreturn y", "return x") == 1.0
    # kitten and sitting have "ittn" in common, in order: 2 * 4 of 6 + 7 letters
    assert metrics.edit_similarity("kitten", "sitting") == pytest.approx(8 / 13)
    assert metrics.edit_similarity("`all`\n// talk", "return x") == 0.0


def test_a_class_inside_the_right_one_is_not_held_against_it_and_others_share_the_point() -> None:
    classes = ["Date", "Date of birth", "Person"]
    assert metrics.classification("Date of birth", "Date of birth", classes) == 1.0
    assert metrics.classification("Date of birth, Person", "Date of birth", classes) == 0.5
    assert metrics.classification("Person", "Date", classes) == 0.0
    assert metrics.classification("Date of birth", "Date", classes) == 0.5


def test_numbers_share_the_point() -> None:
    assert metrics.number_share("Paragraph 19", "Paragraph 19") == 1.0
    assert metrics.number_share("19 or 20 or 19", "Paragraph 19") == pytest.approx(2 / 3)
    assert metrics.number_share("190", "19") == 0.0
    assert metrics.number_share("none", "19") == 0.0


def test_the_last_number_counts() -> None:
    assert metrics.last_number("In line 7 it is <2416>.", "2416") == 1.0
    assert metrics.last_number("2416, and not 7", "2416") == 0.0
    assert metrics.last_number("no idea", "2416") == 0.0


def test_a_topic_counts_as_whole_words() -> None:
    assert metrics.contains("The first topic is 'The Art of War'.", "the art of war") == 1.0
    assert metrics.contains("The first topic is warfare.", "war") == 0.0


def test_letters_of_an_exam() -> None:
    assert metrics.one_choice("(B) because A is wrong", "(B) Their subconscious") == 1.0
    assert metrics.one_choice("none of them", "B") == 0.0
    assert metrics.several_choices("BD", "BD") == 1.0
    assert metrics.several_choices("DB and nothing else", "BD") == 1.0
    assert metrics.several_choices("B", "BD") == 0.25
    assert metrics.several_choices("AB", "BD") == 0.0
    assert metrics.several_choices("The answers are B. and D.", "BD") == 1.0
    assert metrics.several_choices("Because", "B") == 0.0


def test_the_number_at_the_end_of_a_sum() -> None:
    assert metrics.final_number("so 3 + 4. The answer is $1,800.50", "1800") == 1.0
    assert metrics.final_number("it is 12 apples, or 18\n\nQuestion: 99", "18") == 1.0
    assert metrics.final_number("no number", "18") == 0.0


def test_two_judgements_have_half_a_point_each() -> None:
    assert metrics.true_and_fact("True [fact: False]", "True [fact: False]") == 1.0
    assert metrics.true_and_fact("True", "True [fact: False]") == 0.5
    assert metrics.true_and_fact("false. [fact: true]", "True [fact: False]") == 0.0


def test_masks_are_filled_one_by_one() -> None:
    right = "{'<mask-0>': 'Mathew', '<mask-1>': 'Jamie'}"
    assert metrics.masks("Here: {'<mask-0>': 'Mathew', '<mask-1>': 'Britney'}", right) == 0.5
    assert metrics.masks('{"<mask-0>": "Mathew", "<mask-1>": "Jamie"} is my answer', right) == 1.0
    assert metrics.masks("{'<mask-0>': __import__('os')}", right) == 0.0
    assert metrics.masks("Mathew and Jamie", right) == 0.0


def test_chinese_is_scored_by_words() -> None:
    pytest.importorskip("jieba")
    # 我 来到 北京 清华大学 is the cut that jieba's own page shows; three of four words are in common
    assert metrics.f1_chinese("我来到北京。", "我来到北京清华大学") == pytest.approx(2 * 1 * 0.75 / 1.75)
    pytest.importorskip("rouge_score")
    assert metrics.rouge_l_chinese("我来到北京", "我来到北京清华大学") == pytest.approx(2 * 1 * 0.75 / 1.75)
