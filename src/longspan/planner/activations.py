"""Activation memory, exact to the byte that torch allocates: the model runs on tensors that hold no numbers.

Every operation of a forward pass or a training step is carried out on torch's fake tensors, which have shapes, types
and storages but no memory, while the bytes of all living storages are added up. So each family, attention, dtype and
method is counted by its own code at the very length that is asked for; no formula has to follow the library's. Not seen
is what a kernel takes for itself: under sdpa on a processor up to about 1 MiB a thread.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel, masking_utils
from transformers.integrations import moe

from longspan.equation import Band
from longspan.kernels import banded
from longspan.surgery import placed
from longspan.surgery.rotary import LongspanRotary


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a model does with one sequence."""

    training: bool = False
    """Forward with loss, and backward; else a forward that fills the cache."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    all_logits: bool = False
    """Whether a forward gives the logits of every token; training always does."""
    checkpointing: bool = False
    """Whether training keeps the inputs of layers only and computes the rest again."""

    def __str__(self) -> str:
        if self.training:
            return f"training, {self.attention}" + (", checkpointing" if self.checkpointing else "")
        return f"prefill, {self.attention}, {'all' if self.all_logits else 'last'} logits"

    def run(self, model: PreTrainedModel, tokens: torch.Tensor) -> object:
        """Do it once, on real tensors or fake ones; the result holds what stays in memory."""
        model.set_attn_implementation(self.attention)
        if not self.training:
            with torch.no_grad():
                return model.eval()(tokens, use_cache=True, logits_to_keep=0 if self.all_logits else 1)
        model.train()
        if self.checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # the new name is not in every version that will do
                model.gradient_checkpointing_enable({"use_reentrant": False})
        with placed(model, _drawn(model, tokens)):
            output = model(tokens, labels=tokens, use_cache=False)
            output.loss.backward()
        return output


def _drawn(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor | None:
    """Positions as a method of the model might draw them; None where none does."""
    rotary = getattr(model.base_model, "rotary_emb", None)
    draws = isinstance(rotary, LongspanRotary) and rotary.slots.position is not None
    return torch.arange(tokens.shape[1])[None] if draws else None


_WORKS = (
    Work(),
    Work(all_logits=True),
    Work(attention="eager"),
    Work(training=True),
    Work(training=True, checkpointing=True),
)


def works_of(model: PreTrainedModel) -> tuple[Work, ...]:
    """The kinds of work to tell the memory of, the most usual first; all with eager attention where there is no other.

    transformers has no sdpa for models that cap their logits, such as Gemma 2.
    """
    if model._supports_sdpa:
        return _WORKS
    return tuple(dict.fromkeys(dataclasses.replace(work, attention="eager") for work in _WORKS))


def peak_bytes(outline: PreTrainedModel, length: int, dtype: torch.dtype, work: Work) -> int:
    """The most bytes that `work` on one sequence of `length` tokens takes at once beside the weights.

    A prefill's include the cache that it fills, and a training step's the gradients that are there at its peak; the
    optimizer's states come on top.

    Args:
        outline: a model on the meta device, plain or patched; it stays as it is.
    """
    model = copy.deepcopy(outline).to(dtype)
    with _stand_ins(), FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        model.tie_weights()
        tokens = torch.zeros(1, length, dtype=torch.long)
        with _LiveBytes(model, length) as live:
            kept = work.run(model, tokens)
        del kept
    return live.peak


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """What transformers would decide by numbers, which fake tensors do not have, decided as it does for one sequence.

    No packed documents are looked for, and experts take the library's own form of the grouped product where torch's
    wants to know the weights' addresses; both have results of the same size. Bands are taken to hold all keys each,
    which is a little more than they do.
    """
    with (
        # plain functions: a mock would keep the tensors it was called with
        mock.patch.object(masking_utils, "find_packed_sequence_indices", _nothing),
        mock.patch.object(moe, "_can_use_grouped_mm", _nothing),
        mock.patch.object(banded, "runs", _all_keys),
    ):
        yield


def _nothing(*_: object) -> None:
    """No documents, and no."""


def _all_keys(
    _band: Band, _queries: torch.Tensor, keys: torch.Tensor, *_: object
) -> Iterator[tuple[slice, torch.Tensor | None]]:
    """One stretch of keys, all of them."""
    yield slice(0, keys.shape[1]), None


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations make, from their making to their end."""

    def __init__(self, model: PreTrainedModel, length: int):
        super().__init__()
        self.length = length
        self.now = self.peak = 0
        held = [*model.parameters(), *model.buffers()]
        self._known: dict[int, Any] = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            # the only numbers that a model reads on its way are positions, and it reads how far they go
            return self.length - 1
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        del self._known[key]
        self.now -= size
