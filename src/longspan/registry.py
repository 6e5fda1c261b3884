"""Methods by name: found in `longspan.methods` and in other packages' entry points, never listed by hand."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import itertools
import pkgutil
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

from longspan.equation import Method
from longspan.errors import MethodError

ENTRY_POINTS = "longspan.methods"
"""Entry-point group by which another package adds a method: name = "package.module:Class"."""

PLAIN = ("rope", "none")
"""Both spell the untouched model."""


@functools.cache
def all_methods() -> Mapping[str, type[Method]]:
    """Every method found, by name, in alphabetical order. The name is that of the method's file."""
    import longspan.methods as package

    found: dict[str, type[Method]] = {}
    for module_info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module_info.ispkg:
            continue
        module = importlib.import_module(module_info.name)
        found |= {module_info.name.rpartition(".")[2]: method for method in _methods_of(module)}
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        found[entry.name] = entry.load()
    return types.MappingProxyType(dict(sorted(found.items())))


def _methods_of(module: types.ModuleType) -> Iterable[type[Method]]:
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__:
            yield value


def find_method(name: str) -> type[Method]:
    """The method called `name`.

    Raises:
        MethodError: there is none; the message lists those there are.
    """
    if name not in all_methods():
        raise MethodError(f"unknown method '{name}': choose from {', '.join(all_methods())} (see `longspan methods`)")
    return all_methods()[name]


def name_of(method: Method | type[Method]) -> str:
    """The name under which a method is found."""
    kind = method if isinstance(method, type) else type(method)
    for name, found in all_methods().items():
        if found is kind:
            return name
    raise MethodError(f"{kind.__name__} is not registered: add it through the entry-point group '{ENTRY_POINTS}'")


def make_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Method `name` with `settings`, each checked by name, by type and, where the field lists them, by value.

    Raises:
        MethodError: an unknown method or setting, or a value the setting does not take.
    """
    kind = find_method(name)
    assert dataclasses.is_dataclass(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for key in settings:
        if key not in known:
            choice = f"choose from {', '.join(known)}" if known else "it has no settings"
            raise MethodError(f"method '{name}' has no setting '{key}': {choice}")
    return typing.cast(Method, kind(**settings))


def settings_of(method: Method) -> dict[str, Any]:
    """Settings that differ from their defaults."""
    assert dataclasses.is_dataclass(method)
    return {
        field.name: getattr(method, field.name)
        for field in dataclasses.fields(method)
        if getattr(method, field.name) != field.default
    }


def format_methods(methods: Sequence[Method]) -> str:
    """Spell methods as the command line takes them: `coca(form='slack')+yarn`; plain RoPE is `rope`."""
    parts = []
    for method in methods:
        settings = ", ".join(f"{key}={value!r}" for key, value in settings_of(method).items())
        parts.append(name_of(method) + (f"({settings})" if settings else ""))
    return "+".join(parts) or PLAIN[0]


def parse_methods(text: str) -> tuple[Method, ...]:
    """Read `yarn`, `coca+yarn` or `coca(form='slack')+dynamic_ntk(factor=4)`; `rope` and `none` are no method.

    Raises:
        MethodError: text that is not of this form, or an unknown method or setting.
    """
    if text.strip() in PLAIN:
        return ()
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise MethodError(f"'{text}' does not read as methods: write for example coca(form='slack')+yarn") from error
    parts = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        parts.append(tree.right)
        tree = tree.left
    return tuple(_parse_one(text, node) for node in [tree, *reversed(parts)])


def _parse_one(text: str, node: ast.expr) -> Method:
    wrong = MethodError(f"'{text}' does not read as methods: write for example coca(form='slack')+yarn")
    if isinstance(node, ast.Name):
        return make_method(node.id, {})
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise wrong
    settings = {}
    for keyword in node.keywords:
        # coca(form=slack): a bare word stands for the word itself, since shells eat quotes
        bare = isinstance(keyword.value, ast.Name)
        try:
            value = keyword.value.id if isinstance(keyword.value, ast.Name) else ast.literal_eval(keyword.value)
        except ValueError as error:
            raise wrong from error
        if keyword.arg is None or (bare and value in {"inf", "nan"}):
            raise wrong
        settings[keyword.arg] = _WORDS.get(value, value) if bare else value
    return make_method(node.func.id, settings)


_WORDS = {"true": True, "false": False, "none": None, "null": None}
"""How YAML and shells' users write what Python writes with a capital."""


def methods_to_json(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Methods as a config file keeps them: every setting is written, so later defaults cannot change a saved model."""
    return [{"name": name_of(method), **dataclasses.asdict(typing.cast(Any, method))} for method in methods]


def methods_from_json(values: Sequence[Mapping[str, Any]]) -> tuple[Method, ...]:
    """The inverse of `methods_to_json`.

    Raises:
        MethodError: an entry without a name, or an unknown method or setting.
    """
    methods = []
    for value in values:
        if "name" not in value:
            raise MethodError(f"a method in the config has no name: {dict(value)}")
        methods.append(make_method(value["name"], {key: item for key, item in value.items() if key != "name"}))
    return tuple(methods)


def summary(name: str) -> str:
    """The first line of a method's card, without its name."""
    return _docstring(find_method(name)).partition("\n")[0].partition(": ")[2].rstrip(".")


def card(name: str) -> str:
    """Everything a user should know of a method: its module's docstring, its slots, and its settings.

    Raises:
        MethodError: there is no such method.
    """
    kind = find_method(name)
    lines = [_docstring(kind), "", f"Slots     {', '.join(kind.slots())}", f"Python    longspan.{kind.__name__}"]
    assert dataclasses.is_dataclass(kind)
    rows = [
        f"  {field.name} = {field.default!r}\n      {' '.join(_field_docs(kind).get(field.name, '').split())}"
        for field in dataclasses.fields(kind)
    ]
    return "\n".join([*lines, "Settings" if rows else "Settings  none", *rows])


def _docstring(kind: type[Method]) -> str:
    return inspect.cleandoc(importlib.import_module(kind.__module__).__doc__ or "")


def _field_docs(kind: type[Method]) -> dict[str, str]:
    """The string under each field, which is where a setting is documented, once."""
    tree = ast.parse(inspect.cleandoc(inspect.getsource(kind)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    found = {}
    for node, after in itertools.pairwise(body):
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and documented:
            found[node.target.id] = str(typing.cast(ast.Constant, typing.cast(ast.Expr, after).value).value)
    return found
