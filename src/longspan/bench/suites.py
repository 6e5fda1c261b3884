"""The suites by name. This list loads neither torch nor the suites, so that `--help` can read it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from longspan.errors import ConfigError

if TYPE_CHECKING:
    from longspan.bench.settings import BenchSettings
    from longspan.records import Record

Measure: TypeAlias = "Callable[[BenchSettings], Iterator[Record]]"
"""What a suite is: it measures, and gives each record as it comes."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite: where its function is, and which options it heeds."""

    function: str
    """Module in this folder and function: `steps:prefill_costs`."""
    summary: str
    options: frozenset[str]

    def load(self) -> Measure:
        """The function that measures."""
        module, _, name = self.function.partition(":")
        measure: Measure = getattr(importlib.import_module(f"longspan.bench.{module}"), name)
        return measure


_ALL = frozenset({"lengths", "device", "dtype"})
SUITES = {
    "attention": Suite(
        "attention:attention_costs", "one attention layer: RoPE, CoCA, the released way, FlexAttention, PoPE", _ALL
    ),
    "train": Suite("steps:training_costs", "a training step: transformers' Llama, CoCA, PoPE", _ALL),
    "prefill": Suite("steps:prefill_costs", "reading a prompt, for the next token", _ALL),
    "cache": Suite("cache:cache_costs", "decoding and bytes of caches", _ALL),
    "loop": Suite("train_loop:loop_costs", "the training loop against a bare one", frozenset({"device"})),
    "eval": Suite("evaluate:evaluation_costs", "perplexity and passkey against the common way", frozenset({"device"})),
    "start": Suite("start:start_costs", "seconds until `import longspan` and `longspan --help` are done", frozenset()),
}


def find_suites(names: Sequence[str], options: Sequence[str] = ()) -> dict[str, Suite]:
    """The suites called `names`, or all of them if there are none.

    Args:
        names: in any order; they are run in that of the list.
        options: those that the user has given.

    Raises:
        ConfigError: there is no such suite, or one that was named has no use for an option.
    """
    for name in names:
        if name not in SUITES:
            raise ConfigError(f"unknown suite '{name}': choose from {', '.join(SUITES)}")
        for option in options:
            if option not in SUITES[name].options:
                raise ConfigError(f"--{option} has no effect on the suite '{name}': leave one of them out")
    return {name: suite for name, suite in SUITES.items() if name in names or not names}
