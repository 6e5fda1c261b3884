from __future__ import annotations

from collections.abc import Callable

import pytest

from longspan.records import Record
from longspan.report.results import Results, split_methods

Make = Callable[..., Record]


@pytest.mark.parametrize(
    ("spelled", "parts"),
    [
        ("rope", ["rope"]),
        ("coca+yarn", ["coca", "yarn"]),
        ("coca(form='slack', gate='relu')+ntk(factor=4.0)", ["coca(form='slack', gate='relu')", "ntk(factor=4.0)"]),
        ("a(x=1e+3)+b", ["a(x=1e+3)", "b"]),
    ],
)
def test_methods_are_split_at_the_plus_between_them(spelled: str, parts: list[str]) -> None:
    assert split_methods(spelled) == parts


def lines(results: Results) -> list[tuple[str, str, str]]:
    return [(line.arm, line.extension, line.label) for line in results.lines]


def test_a_single_model_under_one_method_shows_that_method(make_record: Make) -> None:
    assert lines(Results([make_record(model="a/stories/checkpoint", method="yarn")])) == [
        ("stories", "yarn", "stories + yarn")
    ]


def test_arms_under_one_method_each_are_labelled_by_arm(make_record: Make) -> None:
    records = [make_record(model="rope"), make_record(model="exact", method="coca")]
    assert lines(Results(records)) == [("rope", "plain", "rope"), ("exact", "coca", "exact")]


def test_an_arm_without_extensions_is_plain_beside_arms_with_them(make_record: Make) -> None:
    records = [make_record(), make_record(method="yarn"), make_record(model="alibi", method="alibi")]
    assert lines(Results(records))[-1] == ("alibi", "plain", "alibi")


def test_one_folder_name_in_two_places_is_told_apart(make_record: Make) -> None:
    records = [make_record(model="a/x"), make_record(model="b/x")]
    assert Results(records).arms == ["a/x", "b/x"]
    records = [make_record(run="first"), make_record(run="second")]
    assert Results(records).arms == ["first: rope", "second: rope"]
