"""A prompt, its right answer, and what decides both. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longspan.files import value_hash


@dataclass(frozen=True, slots=True)
class Place:
    """What decides a prompt, whatever else is measured: the same one for every arm of a comparison."""

    seed: int
    length: int
    """Tokens of BOS, prompt and answer together."""
    depth: float | None
    """Share of the filler before the needle, 0 to 1; None for tasks without one place that is asked for."""
    trial: int

    def rng(self) -> np.random.Generator:
        """Randomness of this prompt alone."""
        return np.random.default_rng(
            [self.seed, self.length, 0 if self.depth is None else round(self.depth * 1_000_000), self.trial]
        )

    def shared_rng(self) -> np.random.Generator:
        """Randomness of the filler: equal at all depths and lengths, so that their prompts begin alike."""
        return np.random.default_rng([self.seed, self.trial])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt and its right answer; `len(prompt_ids) + len(answer_ids)` is the length asked for."""

    prompt_ids: list[int]
    """BOS (if the tokenizer has one) and everything up to the answer."""
    answer_ids: list[int]
    """A right answer, as it continues the prompt."""
    references: tuple[str, ...]
    """What a right answer says, in the order of `answer_ids`."""
    among: frozenset[str] | None = None
    """What an answer may name, in lower case: nothing else counts as a value. None: whatever looks like one."""
    distance: int | None = None
    """Tokens from the first thing that the answer needs (its first token) to the answer."""

    @property
    def length(self) -> int:
        """Tokens of prompt and answer together."""
        return len(self.prompt_ids) + len(self.answer_ids)

    @property
    def fingerprint(self) -> str:
        """A hash of the prompt's tokens."""
        return value_hash(list(self.prompt_ids))
