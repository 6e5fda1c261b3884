"""Readers: programs that see the last tokens of a prompt and answer by rules. They are not told the answers.

One reader reads both suites, whatever their wording, and is as good as what it sees: what two suites make of it depends
on where they hide things and how they score, and on nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

_NEEDLE_QUESTION = re.compile(r"What (?:is|are) (?:.*) (?:for|of) (\S+(?:, \S+)*(?:,? and \S+)?)(?: mentioned|\?)")
_ASSIGNMENT = re.compile(r"VAR ([A-Z]{5}) = (?:VAR )?([A-Z]{5}|\d{5})\b")
_ITEM = re.compile(r"(?<!\d)(\d+)\. ([a-z-]+)")
_CODED = re.compile(r"\b[a-z]{6}\b")
_ENGLISH = frozenset({"yellow", "ignore"})
"""Words of six letters that both suites use beside the coded ones."""


def read_needles(seen: str) -> str:
    """Every value that was said of the names that are asked for."""
    asked = list(_NEEDLE_QUESTION.finditer(seen))[-1]
    names = re.split(r",? and |, ", asked[1].rstrip("?"))
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


def read_common_words(seen: str) -> str:
    """The ten words of the last list that come most often."""
    items = list(_ITEM.finditer(seen))
    first = max((place for place, item in enumerate(items) if item[1] == "1"), default=0)
    return _most(Counter(item[2] for item in items[first:]), 10)


def read_frequent_words(seen: str) -> str:
    """The three words of six letters that come most often."""
    return _most(Counter(word for word in _CODED.findall(seen) if word not in _ENGLISH), 3)


def recite(seen: str) -> str:
    """Everything that looks like a value, whatever is asked for."""
    said = re.findall(r" is:? ([\w-]*\d[\w-]*)\.", seen) or [name for name, _ in _ASSIGNMENT.findall(seen)]
    words = [word for _, word in _ITEM.findall(seen)] or _CODED.findall(seen)
    return ", ".join(dict.fromkeys(said or words))


def _most(counts: Counter[str], number: int) -> str:
    return ", ".join(word for word, _ in counts.most_common(number))


def reader_of(task: str) -> Callable[[str], str]:
    """What answers the prompts of `task`."""
    special = {"vt": read_variables, "cwe": read_common_words, "fwe": read_frequent_words}
    return special.get(task, read_needles)
