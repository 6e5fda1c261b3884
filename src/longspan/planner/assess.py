"""Which methods apply to a model, what each needs, and how far it may be expected to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from longspan import surgery
from longspan.errors import LongspanError
from longspan.planner.published import PUBLISHED, Published
from longspan.planner.reach import Reach, reach_of
from longspan.registry import all_methods

Verdict = Literal["as it is", "after training", "after a search", "from scratch", "beside others", "beyond", "unknown"]
"""What a method takes to reach a factor; `beside others`: it lengthens nothing by itself; `beyond`: farther than its
sources show; `unknown`: there are no figures."""
UNKNOWN = Published(training="tune", tokens="unknown", source="no figures are known here")
"""Of methods that come from other packages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """One method on one model at one factor."""

    name: str
    slots: tuple[str, ...]
    refusal: str | None
    """Why the model cannot take it, in a few words; None if it can."""
    verdict: Verdict
    published: Published
    own: Reach | None
    """The farthest that this project's own small models reached with it alone."""


def assess_all(
    outline: PreTrainedModel, target_length: int, original_length: int, published: Mapping[str, Published] = PUBLISHED
) -> list[Assessment]:
    """Every method that is installed, on a model without weights."""
    factor = target_length / original_length
    found = []
    for name, method in all_methods().items():
        row = published.get(name, UNKNOWN)
        found.append(
            Assessment(
                name=name,
                slots=method.slots(),
                refusal=_refusal(outline, name, target_length, original_length),
                verdict=verdict(row, method.slots(), factor),
                published=row,
                own=reach_of(name),
            )
        )
    return found


def _refusal(outline: PreTrainedModel, name: str, target_length: int, original_length: int) -> str | None:
    try:
        again = surgery.is_extended(outline)
        surgery.plan(outline, name, target_length=target_length, original_length=original_length, again=again)
    except LongspanError as error:
        return str(error).partition(": ")[0].partition("; ")[0]
    return None


def verdict(row: Published, slots: tuple[str, ...], factor: float) -> Verdict:
    """What it takes to reach `factor` by the published figures."""
    if row is UNKNOWN:
        return "unknown"
    if row.training == "scratch":
        return "from scratch"
    if not {"frequency", "bands"} & set(slots):
        return "beside others"
    if factor <= row.untrained:
        return "after a search" if row.training == "search" else "as it is"
    if factor <= row.trained:
        return "after training"
    return "unknown" if row.training == "vendor" else "beyond"
