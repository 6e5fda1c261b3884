"""Tasks by name: found in this folder and in other packages' entry points, never listed by hand.

A file `NAME.py` holds one `Task`, which is found as NAME with its defaults; one that has a setting without a default is
found only by what the file names. It may name more: `PRESETS`, tasks by name that differ in their settings, and
`GROUPS`, names of the file's tasks by the name of a group. `OPEN` makes the task of whatever stands behind `NAME:`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import types
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata

from longspan.errors import ConfigError
from longspan.evaluate.task import Task

ENTRY_POINTS = "longspan.tasks"
"""Entry-point group by which another package adds tasks: name = "package.module"."""


@functools.cache
def all_tasks() -> Mapping[str, Task]:
    """Every task found, by name, in alphabetical order."""
    return types.MappingProxyType(_found()[0])


@functools.cache
def task_groups() -> Mapping[str, tuple[str, ...]]:
    """Names of the tasks of each group."""
    return types.MappingProxyType(_found()[1])


def open_tasks() -> Mapping[str, Callable[[str], Task]]:
    """Makers of the tasks that other programs know, by the word before the colon of their names."""
    return types.MappingProxyType(_found()[2])


@functools.cache
def _found() -> tuple[dict[str, Task], dict[str, tuple[str, ...]], dict[str, Callable[[str], Task]]]:
    tasks: dict[str, Task] = {}
    groups: dict[str, tuple[str, ...]] = {}
    opens: dict[str, Callable[[str], Task]] = {}
    here = [info.name for info in pkgutil.iter_modules(__path__)]
    modules = [(name, importlib.import_module(f"{__name__}.{name}")) for name in here]
    modules += [(entry.name, entry.load()) for entry in metadata.entry_points(group=ENTRY_POINTS)]
    for name, module in modules:
        kind = next(value for value in vars(module).values() if _is_task(value, module))
        tasks |= ({name: kind()} if _has_defaults(kind) else {}) | getattr(module, "PRESETS", {})
        if hasattr(module, "OPEN"):
            opens[name] = module.OPEN
        for group, names in getattr(module, "GROUPS", {}).items():
            groups[group] = (*groups.get(group, ()), *names)
    return dict(sorted(tasks.items())), dict(sorted(groups.items())), opens


def _has_defaults(kind: type) -> bool:
    missing = dataclasses.MISSING
    return all(item.default is not missing or item.default_factory is not missing for item in dataclasses.fields(kind))


def _is_task(value: object, module: types.ModuleType) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, Task)
        and not inspect.isabstract(value)
        and value.__module__ == module.__name__
    )


def find_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        ConfigError: there is none.
    """
    bridge, colon, rest = name.partition(":")
    if colon and rest and bridge in open_tasks():
        return open_tasks()[bridge](rest)
    if name not in all_tasks():
        raise ConfigError(f"--tasks: unknown task '{name}': see `longspan eval --list-tasks`")
    return all_tasks()[name]


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Names of tasks, with each group replaced by its own, each once and in order.

    Raises:
        ConfigError: a name that is neither a task nor a group.
    """
    found = [task for name in names for task in task_groups().get(name, (name,))]
    for name in found:
        find_task(name)
    return tuple(dict.fromkeys(found))


def summary(name: str) -> str:
    """The first line of a task's card."""
    return card(name).partition("\n")[0].rstrip(".")


def card(name: str) -> str:
    """What a user should know of a task: the docstring of its class, and the settings it has."""
    task = find_task(name)
    text = inspect.cleandoc(inspect.getdoc(type(task)) or "")
    values = ", ".join(f"{key}={value!r}" for key, value in _settings(task).items())
    return f"{text}\n\nSettings: {values}" if values else text


def page() -> str:
    """All cards as Markdown: docs/tasks.md."""
    parts = ["# Tasks\n\nWritten by `make docs` from the cards in `src/longspan/evaluate/tasks`; edit those.\n"]
    parts += [f"\n## {name}\n\n```text\n{card(name)}\n```\n" for name in all_tasks()]
    groups = [f"- `{group}`: {', '.join(names)}\n" for group, names in task_groups().items()]
    return "".join([*parts, "\n## Groups\n\n", *groups])


def _settings(task: Task) -> dict[str, object]:
    return {item.name: getattr(task, item.name) for item in dataclasses.fields(task)}  # type: ignore[arg-type]
