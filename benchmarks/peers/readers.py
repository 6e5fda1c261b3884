"""Readers: programs that see the last tokens of a prompt and answer by rules. They are not told the answers.

One reader reads both suites, whatever their wording, and is as good as what it sees: what two suites make of it depends
on where they hide things and how they score, and on nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_NEEDLE_QUESTION = re.compile(r"What (?:is|are) .*? (?:for|of) (.+?)(?: mentioned|\?)")
_ASSIGNMENT = re.compile(r"VAR ([A-Z]{5}) = (?:VAR )?([A-Z]{5}|\d{5})\b")


def read_needles(seen: str) -> str:
    """Every value that was said of the names that are asked for."""
    asked = list(_NEEDLE_QUESTION.finditer(seen))[-1]
    names = re.split(r",? and |, ", asked[1])
    context = seen[: asked.start()]
    found = [value for name in names for value in re.findall(rf"{re.escape(name)} is:? ([\w-]+)\.", context)]
    return ", ".join(found)


def read_variables(seen: str) -> str:
    """Variables of which is seen that they have the value asked for."""
    value = re.findall(r"value (\d{5})", seen)[-1]
    names = {value: None}
    for name, source in _ASSIGNMENT.findall(seen):
        if source in names:
            names[name] = None
    return ", ".join(list(names)[1:])


def recite(seen: str) -> str:
    """Everything that looks like a value, whatever is asked for."""
    said = re.findall(r" is:? ([\w-]*\d[\w-]*)\.", seen) or [name for name, _ in _ASSIGNMENT.findall(seen)]
    return ", ".join(dict.fromkeys(said))


def reader_of(task: str) -> Callable[[str], str]:
    """What answers the prompts of `task`."""
    return read_variables if task == "vt" else read_needles
