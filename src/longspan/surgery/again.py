"""A model that is extended already: refused, unless it is asked to be extended again, and what that then means.

A model that was trained with a method at the length it has is not extended: YaRN on a CoCA model is its first
extension. What an extension changes are frequencies, scales and bands; features and biases are what a model computes
its logits with, so nothing ever takes their place.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedConfig

from longspan.equation import Bands, Bias, Feature, Frequency, Method, Scale, Selection
from longspan.errors import LengthError, MethodError
from longspan.lengths import format_length
from longspan.registry import format_methods
from longspan.surgery.families import meant_length, trained_length

LENGTHENING = (Frequency, Scale, Bands)
"""What an extension consists of."""


def check_again(
    config: PreTrainedConfig, before: Sequence[Method], added: Sequence[Method], target: int, *, again: bool
) -> None:
    """Refuse a second extension that was not asked for, and `again` where there is no first one.

    A feature that joins at the length that the model has lengthens nothing, so it may.

    Args:
        config: of the model as it is.
        before: the methods in force.
        target: tokens it shall read then.

    Raises:
        MethodError: the model is extended already, by which methods, or is not.
    """
    original, present = trained_length(config), meant_length(config)
    extended = bool(before) and present > original
    if again and not extended:
        raise MethodError("the model is not extended yet, so 'again' has no effect: leave it out")
    lengthens = target != present or any(isinstance(method, LENGTHENING) for method in added)
    if extended and lengthens and not again:
        raise MethodError(
            f"the model is already extended from {format_length(original)} to {format_length(present)} tokens by "
            f"{format_methods(_lengthening(before))}: start from the plain model, or ask to extend it again "
            "(--again, again=True)"
        )


def kept_methods(
    before: Sequence[Method], added: Sequence[Method], original: int, target: int, *, again: bool
) -> tuple[Method, ...]:
    """The methods in force that stay beside those that are added.

    Raises:
        MethodError: both fill one slot, and the old one is not a frequency or scale of an earlier extension.
        LengthError: one that stays has a factor of its own that does not reach the target.
    """
    kept = methods_that_stay(before, added, again=again)
    for old in kept:
        for new in added:
            for slot in sorted(set(old.slots()) & set(new.slots())):
                raise MethodError(
                    f"the model computes with {format_methods([old])}: it and {type(new).__name__} both fill the slot "
                    f"'{slot}'; start from a model without it"
                )
        factor = getattr(old, "factor", None)
        if again and factor is not None and int(original * factor) < target:
            raise LengthError(
                f"{format_methods([old])} reaches {format_length(int(original * factor))} tokens by a factor of its "
                f"own: name a method that reaches {format_length(target)}"
            )
    return kept


def methods_that_stay(before: Sequence[Method], added: Sequence[Method], *, again: bool) -> tuple[Method, ...]:
    """The methods in force less those whose place new ones take.

    A selection makes room for another at any time, since it lengthens nothing; the rest, if a model is extended again.
    """
    return tuple(old for old in before if not ((again or isinstance(old, Selection)) and _is_replaced(old, added)))


def without_training(before: Sequence[Method], added: Sequence[Method]) -> tuple[Method, ...]:
    """The methods in force, less those that acted in an earlier training alone and make room for their like."""
    taken = {slot for method in added for slot in method.slots()}
    return tuple(method for method in before if not (method.only_trains() and taken.issuperset(method.slots())))


def note_on_earlier(config: PreTrainedConfig, before: Sequence[Method], kept: Sequence[Method]) -> str:
    """What becomes of the extension that is there, in one line."""
    replaced = [method for method in before if method not in kept]
    stays = [method for method in _lengthening(before) if method in kept]
    parts = [f"extended before to {format_length(meant_length(config))} tokens"]
    if replaced:
        parts.append(f"{format_methods(replaced)} is replaced")
    if stays:
        parts.append(f"{format_methods(stays)} stays in force")
    return ", ".join(parts) + "; the factor counts from the original length"


def _is_replaced(old: Method, added: Sequence[Method]) -> bool:
    """Whether a new method takes the place of an old one: of all its slots, the temperature of YaRN with it."""
    if isinstance(old, Feature | Bias):
        return False
    return old.slots()[0] in {slot for method in added for slot in method.slots()}


def _lengthening(methods: Sequence[Method]) -> list[Method]:
    """Those that an extension consists of; all of them if none is of that kind."""
    return [method for method in methods if isinstance(method, LENGTHENING)] or list(methods)
