"""Training windows of a domain, masked or whole: window i is the same for every arm and order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from longspan.data.positions import IGNORED
from longspan.systems.hprompt_cpt.seeds import stream

MASKED, REPLACED, KEPT = 0.15, 0.8, 0.1
"""Share of tokens that are predicted; of these, shares that become the mask token, and that stay as they are."""


class Batch(NamedTuple):
    """Windows as a model reads them."""

    input_ids: Int[Tensor, "B S"]
    mask: Bool[Tensor, "B S"]
    """Tokens that are no padding."""
    labels: Int[Tensor, "B S"]
    """Tokens to predict at their own place (causal models predict them one place before); -100 elsewhere."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(*(tensor.to(device) for tensor in self))


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows drawn from the tokens of one domain."""

    name: str
    tokens: np.ndarray
    """Token ids, 1-D: documents one behind the other, each ended by the end-of-text token."""
    length: int
    seed: int
    masker: Masker | None
    """None: causal, every token is learned."""

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Input and labels of window `index`, each [length]."""
        rng = stream(self.seed, self.name, index)
        start = int(rng.integers(len(self.tokens) - self.length, endpoint=True))
        ids = self.tokens[start : start + self.length].astype(np.int64)
        return (ids, ids) if self.masker is None else self.masker.mask(ids, rng)


@dataclass(frozen=True, slots=True)
class Masker:
    """BERT's masking: 15 % of the tokens are predicted, 80/10/10."""

    mask_id: int
    vocab_size: int
    special: frozenset[int]
    """Tokens that are never predicted."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Masker:
        """The masker for a tokenizer that has a mask token."""
        assert tokenizer.mask_token_id is not None, "checked where the tokenizer is read"
        return cls(tokenizer.mask_token_id, len(tokenizer), frozenset(tokenizer.all_special_ids))

    def mask(self, ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Input with masks, and labels that are -100 where nothing is predicted; both like `ids`, [S]."""
        ordinary = ~np.isin(ids, list(self.special))
        drawn = rng.random(len(ids))
        # one at least: a window that predicts nothing would have no loss
        chosen = ordinary & (drawn < max(MASKED, np.min(drawn[ordinary], initial=1.0) + 1e-12))
        kind, other = rng.random(len(ids)), rng.integers(self.vocab_size, size=len(ids))
        seen = np.where(kind < REPLACED, self.mask_id, np.where(kind < REPLACED + KEPT, ids, other))
        return np.where(chosen, seen, ids), np.where(chosen, ids, IGNORED)


def stack(rows: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Full windows as a batch."""
    ids, labels = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
    return Batch(ids, torch.ones_like(ids, dtype=torch.bool), labels)


@dataclass(frozen=True)
class Stream:
    """The batches of one stage: windows of its domains in turn, some of them replaced by windows of earlier ones."""

    domains: tuple[Windows, ...]
    rows: int
    """Windows in a step."""
    seed: int
    earlier: tuple[Windows, ...] = ()
    share: float = 0.0
    """Chance of a row to come from what is kept of `earlier`."""
    kept: int = 0
    """Windows kept of each earlier domain: the first ones that it was trained on."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        rng = stream(self.seed, "replay", len(self.earlier), step)
        found = []
        for index in range(step * self.rows, (step + 1) * self.rows):
            if self.earlier and rng.random() < self.share:
                found.append(self.earlier[int(rng.integers(len(self.earlier)))].row(int(rng.integers(self.kept))))
            else:
                found.append(self.domains[index % len(self.domains)].row(index // len(self.domains)))
        return stack(found)
