"""Whether an answer says what it should: scorers that a key inside another number, or a list of guesses, does not fool.

An answer is read for values of the kind that was asked for (a number of so many digits, a word of a list). Its first
different values count, as many as were asked for; so a model that recites everything it saw is not right by accident.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

WORD = r"[A-Za-z]+(?:-[A-Za-z]+)*"
"""A word, with its hyphens."""
HEXADECIMAL = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
"""A UUID as it is written."""


def number(digits: int) -> str:
    """Pattern of a number of exactly so many digits."""
    return f"[0-9]{{{digits}}}"


def values(answer: str, pattern: str, among: Collection[str] | None = None) -> list[tuple[str, int]]:
    """Different values in `answer`, each with the place behind it, in the order in which they first appear.

    A value stands by itself: no letter, digit or hyphen touches it, and no decimal or thousands follow or go before.
    Case is of no account.

    Args:
        pattern: what a value looks like.
        among: only these count, in lower case; None takes all.
    """
    alone = re.compile(rf"(?<![\w-])(?<!\d[.,])(?:{pattern})(?![\w]|-\w|[.,]\d)", flags=re.IGNORECASE)
    found: dict[str, int] = {}
    for match in alone.finditer(answer):
        value = match[0].lower()
        if among is None or value in among:
            found.setdefault(value, match.end())
    return list(found.items())


def recall(answer: str, references: Sequence[str], pattern: str, among: Collection[str] | None = None) -> float:
    """Share of `references` among the first values of `answer`, of which as many count as there are references."""
    said = {value for value, _ in values(answer, pattern, among)[: len(references)]}
    return sum(reference.lower() in said for reference in references) / len(references)


def settled_recall(
    answer: str, references: Sequence[str], pattern: str, among: Collection[str] | None = None
) -> float | None:
    """The recall of an answer that begins so, once all values that count are there and have ended; else None."""
    found = values(answer, pattern, among)
    if len(found) < len(references):
        return None
    behind = answer[found[len(references) - 1][1] :]
    # a full stop, comma or hyphen may still turn the last value into a part of another
    return None if not behind or (len(behind) == 1 and behind in ".,-") else recall(answer, references, pattern, among)
