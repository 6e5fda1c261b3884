"""The recommendation, by rules that stand here in the order in which they are asked.

1. A target no longer than what the model is meant to read already: nothing.
2. Otherwise the methods that apply, change frequencies, do not ask for training from scratch, and that the server to be
   used accepts. Of those,
   a. unless training is wanted: one that reaches the factor as it is, by its sources;
   b. unless training is ruled out: one that reaches it after training;
   c. else the one that gets farthest in the way that is allowed, said to fall short.
   Among several, the one that is in force already (the model may have been trained with it), then one whose settings
   need no search, then the one with the longest reach untrained (training then starts nearest to its end).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from longspan.planner.assess import UNKNOWN, Assessment

Action = Literal["nothing", "as it is", "train", "none reaches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to do, and why."""

    action: Action
    method: str
    """What `--method` of `longspan extend` takes; `none` if there is nothing to add."""
    reason: str


def recommend(
    assessments: Sequence[Assessment],
    *,
    factor: float,
    in_force: Sequence[str] = (),
    reaches_already: bool = False,
    train: bool | None = None,
    served: Callable[[str], bool] = lambda name: True,
) -> Recommendation:
    """The first rule that holds.

    Args:
        factor: target over trained length.
        in_force: names of the methods that the model came with.
        reaches_already: whether the target is no longer than what the model is meant to read.
        train: True wants training, False rules it out, None takes what the factor needs.
        served: whether the server in question accepts a method.
    """
    if reaches_already:
        reason = "the model is meant to read this length already"
        return Recommendation(action="nothing", method="none", reason=reason)
    eligible = sorted((item for item in assessments if _eligible(item)), key=lambda item: _preference(item, in_force))
    candidates = [item for item in eligible if served(item.name)]
    if not candidates:
        what = "is served there" if eligible else "applies to this model"
        reason = f"no method that changes frequencies and does not ask for training from scratch {what}"
        return Recommendation(action="none reaches", method="none", reason=reason)
    action, chosen = _choice(candidates, factor, train)
    parts = _reasons(action, chosen, factor, train)
    if chosen.name in in_force:
        parts.insert(0, "it is in force already, and the model may have been trained with it")
    return Recommendation(action=action, method=chosen.name, reason="; ".join(parts))


def _eligible(item: Assessment) -> bool:
    usable = item.published.training in ("none", "tune", "search") and item.published is not UNKNOWN
    reaches = max(item.published.untrained, item.published.trained) > 1
    return item.refusal is None and usable and reaches and "frequency" in item.slots


def _preference(item: Assessment, in_force: Sequence[str]) -> tuple[bool, bool, float, float]:
    row = item.published
    return item.name not in in_force, row.training == "search", -row.untrained, -row.trained


def _choice(candidates: Sequence[Assessment], factor: float, train: bool | None) -> tuple[Action, Assessment]:
    if train is not True:
        for item in candidates:
            if factor <= item.published.untrained:
                return "as it is", item
    if train is not False:
        for item in candidates:
            if factor <= item.published.trained:
                return "train", item
        return "none reaches", max(candidates, key=lambda item: item.published.trained)
    return "none reaches", max(candidates, key=lambda item: item.published.untrained)


def _reasons(action: Action, item: Assessment, factor: float, train: bool | None) -> list[str]:
    row, parts = item.published, []
    if action == "as it is":
        parts.append(f"factor {factor:g} is within {row.untrained:g}, the farthest its sources show without training")
        if row.training == "search":
            parts.append("its factors have to be searched for (longspan search)")
        parts.append("retrieval beyond the window fails before perplexity does: measure it, or plan --train")
    elif action == "train":
        start = "training is wanted and" if train else f"factor {factor:g} is beyond what any shows untrained, and"
        parts.append(f"{start} it reached {row.trained:g} after {row.tokens} tokens at the target length")
    else:
        how = "without training" if train is False else "even with training"
        best = row.untrained if train is False else row.trained
        parts.append(
            f"no method that applies reaches factor {factor:g} {how} in its sources; this one gets to {best:g}"
        )
    parts.append(f"source: {row.source}")
    if item.own is not None:
        parts.append(
            f"this project's small models ({item.own.size}, window {item.own.train_length}) reached "
            f"{item.own.factor:g} with it untrained, {item.own.perplexity_factor:g} by perplexity alone"
        )
    return parts
