"""Prompts that begin alike, read one after another: what they share is computed once, and kept as keys and values.

A depth grid hides needles in the same text, so that a prompt is the one before it up to its needle. Prompts are taken
in the order of their tokens, which is that of a walk through the tree of their beginnings: no branch is computed twice.

Exact where a token does not see what follows it. Where frequencies follow the length it does, and every prompt is then
read afresh; so it is with layers that keep a window of the past only, and where queries choose what later ones see,
since their caches cannot be cut back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from longspan.data.pieces import common_prefix
from longspan.evaluate.chunks import attending_to_cache, store, takes_chunks
from longspan.evaluate.forward import frequencies_follow_length, scores_of
from longspan.evaluate.sample import Sample
from longspan.surgery.rotary import LongspanRotary

_CHUNK = 8192
"""Tokens read at once behind cached ones."""
_MASKED_CHUNK = 512
"""The same where attention needs a mask: a longer block spends more on the half of it that is empty."""
_WIDTHS = 8
"""On a processor, prompts longer than so many hidden sizes spend their time in masked attention: nothing is gained."""
_LONG = 1024
"""On a processor, from so many tokens on rows side by side are no faster than one after another."""


def can_share(model: PreTrainedModel) -> bool:
    """Whether a cached beginning gives the same numbers as one read with all that follows."""
    if model.generation_config.use_cache is False or frequencies_follow_length(model) or _chooses(model):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _chooses(model: PreTrainedModel) -> bool:
    """Whether earlier queries choose what is seen: a cache that is cut back no longer holds them."""
    rotaries = (module for module in model.modules() if isinstance(module, LongspanRotary))
    return any(rotary.slots.region_rule() is not None for rotary in rotaries)


def pays(model: PreTrainedModel, length: int, rows: int) -> bool:
    """Whether sharing is faster than reading prompts of `length` tokens afresh, `rows` at a time."""
    if model.device.type != "cpu":
        return rows == 1
    if takes_chunks(model):
        return length >= _LONG
    return rows == 1 and length <= _WIDTHS * model.config.hidden_size


@contextlib.contextmanager
def reading_in_turn(model: PreTrainedModel, length: int) -> Iterator[PrefixReader]:
    """A reader of prompts of `length` tokens with their answers; `can_share` must hold for `model`."""
    bare = takes_chunks(model)
    with attending_to_cache(model, length) if bare else contextlib.nullcontext():
        yield PrefixReader(model, bare)


class PrefixReader:
    """Reads prompts and answers with one cache."""

    def __init__(self, model: PreTrainedModel, bare: bool) -> None:
        """Nothing is read yet.

        Args:
            bare: whether `model` attends to its cache without a mask.
        """
        self.model = model
        self.read = 0
        """Tokens computed so far."""
        self._bare = bare
        self._cache = DynamicCache(config=model.config)
        self._tokens: list[int] = []

    def force(self, sample: Sample) -> tuple[float, list[int]]:
        """NLL of the right answer, and the most likely token in the place of each of its tokens and behind them."""
        row = [*sample.prompt_ids, *sample.answer_ids]
        start = len(sample.prompt_ids) - 1
        self._cut(min(common_prefix(self._tokens, row), start))
        self.read += len(row) - len(self._tokens)
        size = _CHUNK if self._bare else _MASKED_CHUNK
        for first in range(len(self._tokens), start, size):
            part = self._ids(row[first : min(first + size, start)])
            if self._bare:
                store(self.model, part, self._cache)
            else:
                self._states(part)
        states = self._states(self._ids(row[start:]))
        self._tokens = row
        # behind the answer there is no target: any token stands in, and its loss is left out
        scores = scores_of(self.model, states, self._ids([*sample.answer_ids, 0])[0])
        return float(scores.nll[:-1].sum()), scores.choice.tolist()

    def _ids(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([tokens], device=self.model.device)

    def _states(self, part: Tensor) -> Tensor:
        """Last hidden states of the next tokens, `[T, hidden]`."""
        output = self.model.get_decoder()(input_ids=part, past_key_values=self._cache, use_cache=True, return_dict=True)
        states: Tensor = output.last_hidden_state[0]
        return states

    def generate(self, sample: Sample, **options: Any) -> list[int]:
        """The greedy answer to a prompt that was forced last; `options` go to `generate`."""
        prompt = sample.prompt_ids
        self._cut(len(prompt) - 1)
        ids = self._ids(prompt)
        mask = torch.ones_like(ids)
        answer = self.model.generate(ids, attention_mask=mask, past_key_values=self._cache, **options)
        self.read += answer.shape[1] - len(prompt)
        self._cut(len(prompt) - 1)
        return answer[0, len(prompt) :].tolist()

    def _cut(self, length: int) -> None:
        surplus = self._cache.get_seq_length() - length
        if surplus > 0:
            self._cache.crop(-surplus)
        self._tokens = self._tokens[:length]


def reading_order(samples: Sequence[Sample]) -> list[int]:
    """Numbers of `samples`, those that begin alike next to each other."""
    return sorted(range(len(samples)), key=lambda number: samples[number].prompt_ids)
