"""One dial: from the length that a model shall read follows how to train it there.

What the settings say already is kept and the rest is fitted to it. Nothing is measured: these are the published recipes
and rules of thumb, each named with its source where it is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longspan.equation import Position
from longspan.errors import ConfigError, LengthError
from longspan.lengths import format_length, parse_length
from longspan.planner.memory import doublings
from longspan.planner.published import PUBLISHED
from longspan.registry import parse_methods

SHORT_FROM = 4
"""Factor from which training windows stay short and positions are drawn instead."""
WINDOWS = 64
"""Windows in an optimizer step: what PI, YaRN and PoSE all use."""
PASS_TOKENS = 16384
"""Tokens in one forward pass, if a window is not longer."""
HIGHEST_RATE = 5e-4


@dataclass(frozen=True, slots=True)
class Choice:
    """One setting that was derived."""

    key: str
    """Dotted, as `--set` takes it."""
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.value}  ({self.reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """What follows from the target length."""

    choices: tuple[Choice, ...]
    test_lengths: tuple[int, ...]
    """Lengths to evaluate the model at."""
    test_reason: str

    def fill(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings `given`, with those derived beside them."""
        values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in given.items()}
        for choice in self.choices:
            group, _, key = choice.key.rpartition(".")
            if not group:
                values[key] = choice.value
            elif isinstance(inside := values.get(group) or {}, Mapping):  # anything else is a mistake to be told of
                values[group] = {**inside, key: choice.value}
        return values

    def __str__(self) -> str:
        lengths = ",".join(map(format_length, self.test_lengths))
        return "\n".join([*map(str, self.choices), f"test at: {lengths}  ({self.test_reason})"])


def derive(given: Mapping[str, Any], *, target_length: int, original_length: int, parameters: int) -> Dial:
    """Settings of a run that extends a model of so many `parameters` from `original_length` to `target_length` tokens.

    Args:
        given: the run's settings as far as they are known, nested as in the YAML file; they win, but for the target.

    Raises:
        LengthError: the target is not longer than the original.
        ConfigError, MethodError: a setting that others follow from cannot be read.
    """
    if target_length <= original_length:
        raise LengthError(
            f"--target-length {format_length(target_length)} is not longer than the model's window of"
            f" {format_length(original_length)} tokens: give a longer one"
        )
    return _Derivation(given, target_length, original_length, parameters).made()


class _Derivation:
    """The choices made so far; each looks first whether the setting is given."""

    def __init__(self, given: Mapping[str, Any], target: int, original: int, parameters: int) -> None:
        self.given = {key: value for key, value in given.items() if key != "target_length"}
        self.target, self.original, self.parameters = target, original, parameters
        self.factor = target / original
        self.choices: list[Choice] = []
        self.talks = self._given("data.conversations") is not None

    def made(self) -> Dial:
        self._choose("target_length", self.target, f"factor {self.factor:g} over {format_length(self.original)}")
        methods = self._choose("methods", *self._methods())
        draws = any(isinstance(method, Position) for method in parse_methods(str(methods)))
        length = self._length("train_length", *self._train_length(draws))
        batch = self._length(
            "batch_tokens", WINDOWS * length, f"{WINDOWS} windows a step, as PI, YaRN and PoSE have them"
        )
        if self.talks:
            self._choose("data.packing", "packed", "rows are full, and conversations do not see each other")
        self._choose_pass(length, batch)
        self._choose_budget(draws)
        self._choose_optimizer(draws)
        lengths = doublings(self.original, self.target)
        reason = "the trained window, its doublings, the target"
        if draws and self.target - self.original > self.original:
            lengths = sorted({*lengths, self.target - self.original})
            reason += "; the last distances are trained seldom, so also the target less one window"
        return Dial(choices=tuple(self.choices), test_lengths=tuple(lengths), test_reason=reason)

    def _given(self, key: str) -> Any:
        group, _, name = key.rpartition(".")
        values = (self.given.get(group) or {}) if group else self.given
        return values.get(name) if isinstance(values, Mapping) else None

    def _choose(self, key: str, value: Any, reason: str) -> Any:
        """The value that is given, or else this one."""
        given = self._given(key)
        if given is None:
            self.choices.append(Choice(key, value, reason))
        return value if given is None else given

    def _length(self, key: str, value: int, reason: str) -> int:
        try:
            return parse_length(self._choose(key, value, reason))
        except LengthError as error:
            raise ConfigError(f"'{key}': {error}") from error

    def _methods(self) -> tuple[str, str]:
        reach = PUBLISHED["yarn"].trained
        reason = f"yarn reaches factor {reach:g} with training"
        if self.factor > reach:
            reason = f"yarn, reported to factor {reach:g} only: measure"
        length = self._given("train_length")
        if self.factor < SHORT_FROM if length is None else parse_length(length) >= self.target:
            return "yarn", reason
        method, what = ("skip_align", "turns of conversations") if self.talks else ("pose", "chunks of a window")
        return f"yarn+{method}", f"{reason}; {method} moves {what} apart, so that short windows show every distance"

    def _train_length(self, draws: bool) -> tuple[int, str]:
        if draws:
            return self.original, "the window the model knows: positions are drawn up to the target"
        return self.target, f"the target itself: no method draws positions, or the factor is below {SHORT_FROM}"

    def _choose_pass(self, length: int, batch: int) -> None:
        rows = max(1, batch // length)
        fitting = max(1, PASS_TOKENS // length)
        most = next(count for count in range(min(rows, fitting), 0, -1) if rows % count == 0)
        if most < rows and batch % length == 0:
            reason = f"at most {format_length(PASS_TOKENS)} tokens at a time, or one window"
            self._choose("micro_batch_tokens", most * length, reason)

    def _choose_budget(self, draws: bool) -> None:
        if any(self._given(key) is not None for key in ("tokens", "steps", "epochs")):
            return
        if self.talks:
            self._choose("epochs", 2, "each conversation twice: a rule of thumb")
        elif draws:
            self._choose("steps", 1000, "PoSE, arXiv:2309.10400")
        else:
            self._choose("steps", 400, "YaRN, arXiv:2309.00071")

    def _choose_optimizer(self, draws: bool) -> None:
        rate = min(HIGHEST_RATE, 2e-5 * (7e9 / self.parameters) ** (1 / 3))
        self._choose(
            "optimizer.learning_rate",
            float(f"{rate:.1e}"),
            "2e-5 at 7 billion parameters, as PI, YaRN and PoSE have it, and more for smaller models by the cube root",
        )
        self._choose("optimizer.weight_decay", 0.0, "as YaRN has it")
        warmup = (0.01, "10 of PoSE's 1000 steps") if draws else (0.05, "20 of YaRN's 400 steps")
        self._choose("optimizer.warmup", *warmup)
        self._choose("optimizer.schedule", "linear", "as PoSE has it")
