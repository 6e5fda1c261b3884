"""What each metric of a record means to a reader: which way is better, and on which axis it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is shown."""

    title: str
    """What stands at its axis."""
    better: Literal["lower", "higher"] | None
    scale: Literal["log", "linear", "share"]
    """`share`: from 0 to 1."""
    is_cost: bool = False
    """Whether it says what a run takes (time, memory) and not how good it is."""

    @property
    def advice(self) -> str:
        """`Lower is better.`, or nothing where neither way is."""
        return f"{self.better.capitalize()} is better." if self.better else ""


_METRICS = {
    "perplexity": Metric("perplexity", "lower", "log"),
    "nll": Metric("nats per token", "lower", "linear"),
    "gain": Metric("nats per token", "higher", "linear"),
    "loss": Metric("nats per token", "lower", "log"),
    "bits_per_byte": Metric("bits per byte", "lower", "linear"),
    "seconds": Metric("seconds", "lower", "log", is_cost=True),
    "bytes": Metric("bytes", "lower", "log", is_cost=True),
    "predicted bytes": Metric("bytes, predicted", "lower", "log", is_cost=True),
    "tokens_per_second": Metric("tokens per second", "higher", "log", is_cost=True),
    "ratio": Metric("ratio", None, "linear", is_cost=True),
    "memory ratio": Metric("ratio of memory", None, "linear", is_cost=True),
    "share of limit": Metric("share of the physical limit", "higher", "linear", is_cost=True),
}
_SHARES = re.compile(r"accuracy|f1|rouge.*|exact_match|precision|recall|score|.*similarity")


def metric_named(name: str) -> Metric:
    """The metric of that name in a record; one that is not known has no better way and a linear axis."""
    if _SHARES.fullmatch(name):
        return Metric(name.replace("_", " "), "higher", "share")
    return _METRICS.get(name, Metric(name.replace("_", " "), None, "linear"))


def is_score(name: str) -> bool:
    """Whether the metric says how much was right, from 0 to 1."""
    return metric_named(name).scale == "share"
