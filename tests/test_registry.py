"""Methods are found by file, spelled and read back, and refused in one line."""

from __future__ import annotations

import pytest

import longspan as ls
from longspan.errors import MethodError
from longspan.registry import (
    all_methods,
    find_method,
    format_methods,
    methods_from_json,
    methods_to_json,
    parse_methods,
)


def test_every_method_of_the_first_release_is_found() -> None:
    expected = {"rope", "pi", "ntk", "dynamic_ntk", "yarn", "llama3", "base_change", "log_n", "alibi", "pope", "coca"}
    assert expected <= set(all_methods())


def test_names_outside_scripts_use_lead_to_the_methods() -> None:
    for name in ("Pi", "Ntk", "DynamicNtk", "Yarn", "Llama3", "BaseChange", "LogN", "Alibi", "PoPE", "Coca"):
        assert getattr(ls, name).__name__ == name


@pytest.mark.parametrize("text", ["rope", "none", " rope "])
def test_plain_rope_is_no_method(text: str) -> None:
    assert parse_methods(text) == ()
    assert format_methods(()) == "rope"


def test_methods_are_spelled_with_settings_that_differ_from_their_defaults() -> None:
    methods = (ls.Coca(form="slack", gate="relu"), ls.DynamicNtk(factor=4.0))
    assert format_methods(methods) == "coca(form='slack')+dynamic_ntk(factor=4.0)"
    assert parse_methods(format_methods(methods)) == methods


def test_bare_words_and_whole_numbers_are_taken_where_they_fit() -> None:
    assert parse_methods("coca(form=slack)+yarn(factor=4)") == (ls.Coca(form="slack"), ls.Yarn(factor=4.0))


def test_a_config_keeps_every_setting_and_gives_the_methods_back() -> None:
    methods = (ls.Coca(), ls.Yarn(ramp="turns"))
    saved = methods_to_json(methods)
    assert saved[0] == {"name": "coca", "form": "exact", "gate": "relu", "projection": "full"}
    assert methods_from_json(saved) == methods


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yarm", "unknown method 'yarm': choose from"),
        ("yarn(beta=2)", "no setting 'beta': choose from factor, ramp"),
        ("coca(form='loose')", "'exact' or 'slack' or 'strict'"),
        ("yarn(factor='big')", "a value of type float or None"),
        ("yarn(truncate=1)", "a value of type bool"),
        ("rope(factor=2)", "it has no settings"),
        ("coca+", "does not read as methods"),
        ("coca-yarn", "does not read as methods"),
        ("coca(1)", "does not read as methods"),
        ("yarn(factor=f(2))", "does not read as methods"),
        ("__import__('os')", "does not read as methods"),
    ],
)
def test_what_is_no_method_is_refused_with_what_to_do(text: str, says: str) -> None:
    with pytest.raises(MethodError, match=r".") as error:
        parse_methods(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_missing_from_a_config_is_named() -> None:
    with pytest.raises(MethodError, match="unknown method 'from_elsewhere'"):
        methods_from_json([{"name": "from_elsewhere"}])
    with pytest.raises(MethodError, match="has no name"):
        methods_from_json([{"form": "exact"}])


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        ls.Nothing  # noqa: B018
    with pytest.raises(MethodError, match="choose from"):
        find_method("nothing")
