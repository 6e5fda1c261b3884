"""What every check asks with: the model, its plain form, random tokens, and how far two answers may be apart."""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from longspan import surgery
from longspan.doctor.finding import DoesNotApply
from longspan.doctor.plain import plain_model, shallow_copy
from longspan.equation import Method, Slots, Window, fill_slots
from longspan.surgery.families import window_of
from longspan.surgery.rotary import LongspanRotary

LENGTH = 24
"""Tokens of a probe: what bounds the memory, together with the model's own weights."""
SHALLOW = 2
"""Layers that are written to disk and read back."""
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2.5e-1}
"""How far logits may be apart that should be equal, in standard deviations of theirs. In float64 too, parts of a model
(norms, tables) compute in float32."""


class Probe:
    """One model under examination."""

    def __init__(
        self,
        model: PreTrainedModel,
        against: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        seed: int,
        stack: contextlib.ExitStack,
    ):
        self.model = model
        self.against = against
        self.tokenizer = tokenizer
        self.seed = seed
        self._stack = stack

    @property
    def tolerance(self) -> float:
        """`TOLERANCE` of the model's dtype; narrower ones than bfloat16 have its."""
        return TOLERANCE.get(self.model.dtype, TOLERANCE[torch.bfloat16])

    @functools.cached_property
    def methods(self) -> tuple[Method, ...]:
        """The methods that the model's config says are in force."""
        return surgery.current_methods(self.model)

    @functools.cached_property
    def slots(self) -> Slots:
        """The same in their slots, without those that act in training alone: the model is examined as it is used."""
        return fill_slots([method for method in self.methods if not method.only_trains()])

    @functools.cached_property
    def original(self) -> int:
        """Tokens the model was trained on."""
        return surgery.original_length(self.model)

    @functools.cached_property
    def target(self) -> int:
        """Tokens the model shall read."""
        return max(self.original, surgery.target_length(self.model))

    @functools.cached_property
    def routed(self) -> tuple[int, int] | None:
        """Tokens at which groups have begun to choose what they see, and tokens of a group; None if none ever do."""
        rule = self.slots.region_rule()
        if rule is None or self.target <= rule.sizes.front:
            return None
        return rule.sizes.front + rule.sizes.group, rule.sizes.group

    @functools.cached_property
    def window(self) -> Window:
        """The window, told from the config alone: never from the modules, which are what is examined."""
        return window_of(self.model.config, self.original, self.target)

    @functools.cached_property
    def plain(self) -> PreTrainedModel:
        """The same weights in transformers' own model without any extension."""
        return plain_model(self.model)

    def tokens(self, rows: int = 1, length: int = LENGTH, seed: int = 0) -> Tensor:
        """Random token ids `rows x length`."""
        generator = torch.Generator().manual_seed(self.seed + seed)
        ids = torch.randint(0, self.model.config.vocab_size, (rows, length), generator=generator)
        return ids.to(self.model.device)

    def spread(self, length: int = LENGTH) -> Tensor:
        """Increasing positions `1 x length` from 0 to the last one of the target."""
        return torch.linspace(0, max(self.target, length) - 1, length, dtype=torch.float64).long()[None].to(self.device)

    def crossing(self, length: int = LENGTH) -> Tensor:
        """Consecutive positions `1 x length` across the original length, or up to it if nothing lies beyond."""
        start = self.original - (length // 2 if self.target > self.original else length + 1)
        return torch.arange(max(0, start), max(0, start) + length, device=self.device)[None]

    @functools.cached_property
    def positions_end(self) -> int | None:
        """The number of positions that a model with a table of them can take (GPT-J, GPT-2); None if any."""
        if any(isinstance(module, LongspanRotary) for module in self.model.modules()):
            return None
        names = ("wpe.weight", "embed_positions", "embed_positions.weight")
        tensors = itertools.chain(self.model.named_parameters(), self.model.named_buffers())
        return min((len(tensor) for name, tensor in tensors if name.endswith(names)), default=None)

    def inside(self, length: int = LENGTH) -> Tensor:
        """The first positions `1 x length`, which lie inside the original window."""
        if self.original < length:
            raise DoesNotApply(f"the original window of {self.original} tokens is shorter than the probe of {length}")
        return torch.arange(length, device=self.device)[None]

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    @torch.no_grad()
    def logits(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        *,
        model: PreTrainedModel | None = None,
        packed: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """Logits `B T V` without a cache unless one is given.

        Positions come with a mask of ones, since transformers reads steps between positions as borders of documents
        where there is no mask; with `packed` this is wanted.
        """
        if positions is not None:
            kwargs["position_ids"] = positions.expand(tokens.shape[0], -1)
            if not packed and "past_key_values" not in kwargs:
                kwargs.setdefault("attention_mask", torch.ones_like(tokens))
        kwargs.setdefault("use_cache", "past_key_values" in kwargs)
        model = self.model if model is None else model
        return model(tokens, **kwargs).logits

    def decoded(self, tokens: Tensor, positions: Tensor, steps: tuple[int, ...]) -> Tensor:
        """Logits of the same tokens read through a cache, in pieces of so many tokens and the rest one by one."""
        cache = DynamicCache(config=self.model.config)
        pieces = [*steps, *[1] * (tokens.shape[1] - sum(steps))]
        found, start = [], 0
        for piece in pieces:
            part = slice(start, start + piece)
            found.append(self.logits(tokens[:, part], positions[:, part], past_key_values=cache))
            start += piece
        return torch.cat(found, dim=1)

    def rest(self) -> None:
        """Read a short input where tables follow the length, so that no check sees what an earlier one left."""
        with contextlib.suppress(Exception):  # a model that cannot run is for the checks to tell
            if self.slots.follows_length():
                self.logits(self.tokens(length=2))

    @functools.cached_property
    def shallow(self) -> PreTrainedModel:
        """The first layers of the model: what is saved, so that the disk holds little of a large one."""
        return shallow_copy(self.model, SHALLOW)

    @functools.cached_property
    def saved(self) -> Path:
        """A folder with the shallow model, there until the examination ends."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="longspan-doctor-")))
        self.shallow.save_pretrained(folder)
        return folder


def distance(found: Tensor, expected: Tensor) -> float:
    """Root mean square difference of logits, in standard deviations of those expected.

    Not the largest one, which in low precision a single token takes far that an expert was chosen otherwise for.
    """
    found, expected = found.double(), expected.double()
    return float((found - expected).square().mean().sqrt() / expected.std().clamp(min=1e-30))


@contextlib.contextmanager
def attention_named(model: PreTrainedModel, name: str) -> Iterator[None]:
    """The model with another attention implementation."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = name
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
