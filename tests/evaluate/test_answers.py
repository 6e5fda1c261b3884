"""Scorers on answers that look right and are not, and on right ones that look odd."""

from __future__ import annotations

import pytest

from longspan.evaluate.answers import HEXADECIMAL, WORD, number, recall, settled_recall, values
from longspan.evaluate.task import Sample
from longspan.evaluate.tasks import all_tasks

KEY = "1234567"
UUID = "5033dd9b-f5a5-4acb-9ae5-33fc287462fe"


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" 1234567.", True),
        ("1234567, I think. 1234567!", True),
        ("The code is **1234567**\n", True),
        ("Between 12 and 99999999 names, it was 1234567", True),
        ("91234567", False),
        ("12345678", False),
        ("x1234567", False),
        ("1234567-8", False),
        ("0.1234567", False),
        ("1234567.5", False),
        ("1,234,567", False),
        ("123456", False),
        ("1 2 3 4 5 6 7", False),
        ("one two three four five six seven", False),
        ("7654321 or 1234567", False),
        ("I cannot help with that.", False),
        ("", False),
    ],
)
def test_a_number_counts_alone_whole_and_first(answer: str, right: bool) -> None:
    assert recall(answer, [KEY], number(7)) == float(right)


def test_of_several_values_only_as_many_count_as_were_asked_for() -> None:
    asked = ["1111111", "2222222"]
    assert recall("2222222 and 1111111", asked, number(7)) == 1.0
    assert recall("1111111, 1111111, 2222222", asked, number(7)) == 1.0
    assert recall("1111111, 3333333, 2222222", asked, number(7)) == 0.5
    assert recall("3333333, 4444444, 1111111, 2222222", asked, number(7)) == 0.0


def test_words_count_only_if_the_list_has_them_and_never_as_a_part() -> None:
    among = frozenset({"red-fox", "old-oak", "fox"})
    assert recall("They are: Red-Fox, then a red-foxes' den", ["red-fox"], WORD, among) == 1.0
    assert recall("red-foxy", ["red-fox"], WORD, among) == 0.0
    assert recall("an old-oak", ["fox"], WORD, among) == 0.0
    assert [value for value, _ in values("the fox, old-oak; fox", WORD, among)] == ["fox", "old-oak"]


def test_a_uuid_must_be_whole() -> None:
    assert recall(f"It is {UUID.upper()}.", [UUID], HEXADECIMAL) == 1.0
    assert recall(UUID[:-1], [UUID], HEXADECIMAL) == 0.0
    assert recall(f"{UUID}0", [UUID], HEXADECIMAL) == 0.0
    assert recall(UUID.replace("-", ""), [UUID], HEXADECIMAL) == 0.0


@pytest.mark.parametrize(
    "answer", [" 1234567. The end", "1234567 89", "1234567-8", "12345678", "1234567.", "7654321\n"]
)
def test_an_answer_is_settled_only_where_no_continuation_changes_its_score(answer: str) -> None:
    for end in range(len(answer) + 1):
        settled = settled_recall(answer[:end], [KEY], number(7))
        if settled is not None:
            for more in ("", "5", ".5", "-1", "x", " 1234567", "7654321"):
                assert recall(answer[:end] + more, [KEY], number(7)) == settled
    assert settled_recall(f"{KEY}\n", [KEY], number(7)) == 1.0
    assert settled_recall(KEY, [KEY], number(7)) is None


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("12345", True),
        ("1 2 3 4 5", True),
        ("12345 12345", True),
        ("123456", True),  # the published rule: the first five digits decide
        ("The key is 12345", True),
        ("1234", False),
        ("912345", False),
        ("54321 12345", False),
        ("one two three four five", False),
        ("I do not know.", False),
        ("", False),
    ],
)
def test_the_passkey_is_judged_by_the_first_five_digits(answer: str, right: bool) -> None:
    sample = Sample(prompt_ids=[0], answer_ids=[1], references=("12345",))
    assert all_tasks()["passkey"].score(answer, sample) == float(right)
