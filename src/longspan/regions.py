"""How a sequence is cut into regions and groups, and how groups choose among regions. Shapes as in `equation.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from longspan.errors import MethodError

Routing = Literal["shifted", "lookahead"]
Eligible = Literal["draft", "before_group"]
Positions = Literal["all", "selected", "selected_absolute"]
Rating = Literal["mean", "bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How a sequence is cut, and how much of it a group sees."""

    region: int = 16
    """Tokens in a region."""
    top: int = 512
    """Regions that a group attends to, its own among them."""
    merge: int = 64
    """Regions of queries that share one choice."""
    local: int = 0
    """Regions just before a group that it always attends to; what is left of its share it chooses."""
    sinks: int = 0
    """Regions at the very beginning that every group attends to as well."""

    def __post_init__(self) -> None:
        if min(self.region, self.top, self.merge) < 1:
            raise MethodError(f"region {self.region}, top {self.top} and merge {self.merge} must be at least 1")
        if self.top % self.merge or self.top <= self.merge:
            raise MethodError(
                f"top {self.top} must be a multiple of merge {self.merge}, and larger: nothing is selected"
            )
        if min(self.local, self.sinks) < 0 or self.free < 0:
            raise MethodError(
                f"local {self.local} and sinks {self.sinks} must lie between 0 and the {self.selected} regions of the "
                f"past that a group sees (top {self.top} - merge {self.merge}), both together too"
            )

    @property
    def selected(self) -> int:
        """Regions of the past that a group attends to (K)."""
        return self.top - self.merge

    @property
    def free(self) -> int:
        """How many of them it chooses."""
        return self.selected - self.local - self.sinks

    @property
    def group(self) -> int:
        """Tokens of a group."""
        return self.merge * self.region

    @property
    def front(self) -> int:
        """Tokens at the beginning that attend to all before them."""
        return self.top * self.region

    def groups(self, length: int) -> int:
        """Groups behind the front, the last one possibly ragged (J)."""
        return max(0, math.ceil((length - self.front) / self.group))


class RegionRule(NamedTuple):
    """What a group of queries attends to, beside itself: regions of the past that pooled queries choose, the
    `sizes.local` just before it, and the first `sizes.sinks`."""

    sizes: Sizes
    routing: Routing = "shifted"
    """Whose queries choose: those of the group before, or the group's own, which looks ahead."""
    eligible: Eligible = "draft"
    """Regions that a member may choose: up to the one `merge` before it, or all before its group."""
    per_key_head: bool = False
    """One choice for all query heads that share keys."""
    rating: Rating = "mean"
    """A region counts by the mean of its keys, or by a bound on its best one."""
    follow: bool = False
    """Behind each region that suits, the next one counts as much: what a query matches says what comes after it."""
    positions: Positions = "all"
    """`all`: turned first, then chosen; the others are chosen un-rotated. Under `selected` the key that a query sees as
    its r-th stands where the r-th token of the sequence stands, under `selected_absolute` where it always stood."""

    @property
    def looks_ahead(self) -> bool:
        """Whether later tokens decide what a query sees; a group of one token is asked by itself alone."""
        return self.routing == "lookahead" and self.sizes.group > 1

    @property
    def turns_late(self) -> bool:
        """Whether queries and keys are turned after the choice."""
        return self.positions != "all"


def just_below(scores: Tensor) -> Tensor:
    """The next smaller numbers: a rank right behind, so that two regions never stand level."""
    return torch.nextafter(scores, torch.full_like(scores, -math.inf))
