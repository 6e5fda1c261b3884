"""One clean pass with bounded memory: rows in one forward or in chunks, logits for the needed positions only."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from longspan.errors import CheckpointError, DataError, FamilyError
from longspan.evaluate.chunks import attending_to_cache, hidden_in_chunks, saves_memory, takes_chunks
from longspan.surgery.families import PREFIX
from longspan.surgery.rotary import LOCAL, LongspanRotary

_LOGIT_ELEMENTS = {"cpu": 1 << 22}
_LOGIT_ELEMENTS_ACCELERATOR = 1 << 24
"""Logits alive at once: 64 MiB in float32, whatever the length and the vocabulary; on a processor a quarter."""

_PROBE = 8
"""Tokens whose logits are compared with the model's own."""

_AFTER_HEAD: dict[str, tuple[tuple[str, ...], Callable[[float, Tensor], Tensor]]] = {
    "logit_scale": (("cohere",), lambda scale, logits: logits * scale),
    "logits_scaling": (("granite",), lambda divisor, logits: logits / divisor),
    "final_logit_softcapping": (("gemma2", "gemma3_text"), lambda cap, logits: torch.tanh(logits / cap) * cap),
}
"""What comes between the output embeddings and the logits: its number in the config, whose forward does it, and how."""

_TOKENS_PER_BATCH = {"cpu": 8192}
_TOKENS_PER_BATCH_ACCELERATOR = 65536
_ROW_IN_BATCHES = 4
"""A row longer than so many batches is read in chunks."""
_LONG = 512
"""Rows that are worth two passes, one over their context."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model gave to each asked target, all on the CPU and of shape [targets]."""

    nll: Tensor
    """Negative log-likelihood in nats, float64 (computed in float32)."""
    choice: Tensor
    """The most likely token in the target's place, which greedy decoding would take."""


@contextlib.contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Dropout off and no gradients inside; the model's training flag is restored afterwards.

    `no_grad` and not `inference_mode`: tables that a method makes here may be used in training later.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def rows_per_batch(model: PreTrainedModel, length: int, batch_size: int | None) -> int:
    """Rows of `length` tokens in one forward: `batch_size` if given, else what a token budget per device allows."""
    if batch_size is not None:
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}: it must be at least 1")
        return batch_size
    return max(1, _tokens_per_batch(model) // length)


def _tokens_per_batch(model: PreTrainedModel) -> int:
    return _TOKENS_PER_BATCH.get(model.device.type, _TOKENS_PER_BATCH_ACCELERATOR)


def chunk_size(model: PreTrainedModel, length: int) -> int | None:
    """Tokens of a chunk, if rows of `length` tokens are to be read in chunks."""
    size = _tokens_per_batch(model)
    long = length > _ROW_IN_BATCHES * size
    return size if long and takes_chunks(model) and saves_memory(model) else None


def frequencies_follow_length(model: PreTrainedModel) -> bool:
    """Whether what a token sees changes when further tokens follow: dynamic NTK, LongRoPE with two sets of factors."""
    if any(isinstance(module, LongspanRotary) and _follows(module) for module in model.modules()):
        return True
    parameters = getattr(model.config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return any(found.get("rope_type") in ("dynamic", "longrope") for found in [parameters, *nested])


def _follows(rotary: LongspanRotary) -> bool:
    return any(terms.slots.follows_length() for terms in (rotary.terms(None), rotary.terms(LOCAL)))


def score(model: PreTrainedModel, rows: Tensor, row: Tensor, column: Tensor) -> Scores:
    """Score the tokens rows[row[i], column[i]], each given everything to its left in its row.

    A fresh forward: no mask, positions 0 .. T-1 as the model makes them. `attention_mask` stays None and `position_ids`
    untouched, since transformers reads unusual positions as borders between packed documents. Long rows are read in
    chunks, with the result of one forward.

    Args:
        model: a causal language model of transformers that `check_finite` lets pass.
        rows: token ids, LongTensor [B, T]; all rows are full.
        row: row of each target, LongTensor [targets].
        column: column of each target, at least 1, LongTensor [targets].
    """
    assert int(column.min()) >= 1, "the first token of a row has nothing to its left"
    rows = rows.to(model.device)
    row, column = row.to(model.device), column.to(model.device)
    targets = rows[row, column]
    nll = torch.empty(len(targets), dtype=torch.float64)
    choice = torch.empty(len(targets), dtype=torch.long)
    with _reading(model, rows, int(column.min()) - 1) as parts:
        for start, hidden in parts:
            place = column - 1 - start
            here = ((place >= 0) & (place < hidden.shape[1])).nonzero()[:, 0]
            if len(here):
                found = scores_of(model, hidden[row[here], place[here]], targets[here])
                nll[here.cpu()], choice[here.cpu()] = found.nll, found.choice
    return Scores(nll=nll, choice=choice)


@contextlib.contextmanager
def _reading(model: PreTrainedModel, rows: Tensor, first: int) -> Iterator[Iterator[tuple[int, Tensor]]]:
    """Stretches of the rows with their last hidden states, those from column `first` on at least.

    Each with its own first column, and `[B, stretch, hidden]`.
    """
    length = rows.shape[1]
    size = chunk_size(model, length)
    if size is None and not _stores_context(model, length, first):
        yield iter([(0, model.get_decoder()(input_ids=rows, use_cache=False, return_dict=True).last_hidden_state)])
        return
    with attending_to_cache(model, length):
        yield hidden_in_chunks(model, rows, size or length, first)


def _stores_context(model: PreTrainedModel, length: int, first: int) -> bool:
    """Whether it is faster to store what stands before `first`, without what the last layer would make of it."""
    return model.device.type == "cpu" and 2 * first >= length >= _LONG and takes_chunks(model) and saves_memory(model)


def scores_of(model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> Scores:
    """Score `targets` [targets], each by the hidden state before it, [targets, hidden]."""
    head = _head(model)
    most = _LOGIT_ELEMENTS.get(hidden.device.type, _LOGIT_ELEMENTS_ACCELERATOR)
    chunk = max(1, most // model.get_output_embeddings().weight.shape[0])
    nll, choice = [], []
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        logits = head(hidden[part]).float()
        nll.append(F.cross_entropy(logits, targets[part], reduction="none"))
        choice.append(logits.argmax(dim=-1))
    return Scores(nll=torch.cat(nll).cpu().double(), choice=torch.cat(choice).cpu())


def check_finite(model: PreTrainedModel, length: int) -> None:
    """Make sure that the model gives numbers at all, and the logits that `score` takes for its own.

    Args:
        length: tokens of the row that it reads, within the window it was trained on: beyond it a method may diverge.

    Raises:
        CheckpointError: weights or, after one forward, hidden states that are infinite or not a number.
        FamilyError: the model does something to its logits that is not known here.
    """
    name = model.config.name_or_path or model.config.model_type
    for place, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise CheckpointError(f"{name} holds weights that are no finite numbers ({place}): use another checkpoint")
    vocab_size = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(vocab_size, (1, length), generator=generator).to(model.device)
    with evaluating(model):
        hidden = model.get_decoder()(input_ids=row, use_cache=False, return_dict=True).last_hidden_state
        start = row[:, :_PROBE]
        logits = model(input_ids=start, use_cache=False, return_dict=True).logits.float()
        state = model.get_decoder()(input_ids=start, use_cache=False, return_dict=True).last_hidden_state
        ours = _head(model)(state).float()
    if not hidden.isfinite().all():
        raise CheckpointError(
            f"{name} gives output that is no finite number at {length} tokens in {model.dtype}: "
            "try --dtype float32 or use another checkpoint"
        )
    if (ours - logits).abs().max() > 0.01 * logits.std():
        raise FamilyError(f"{model.config.model_type} changes its logits in a way that evaluation does not know")


def _head(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """From hidden states `... hidden` to the model's logits: the output embeddings and what its family does after them.

    Raises:
        FamilyError: no output embeddings, or a family that is not known to do what its config asks for.
    """
    embeddings = model.get_output_embeddings()
    if embeddings is None:
        raise FamilyError(f"{type(model).__name__} has no output embeddings: load it as a causal language model")
    family = model.config.model_type.removeprefix(PREFIX)
    steps = []
    for key, (families, step) in _AFTER_HEAD.items():
        value = getattr(model.config, key, None)
        if value in (None, 1, 1.0):
            continue
        if family not in families:
            raise FamilyError(
                f"{family} changes its logits after the output embeddings (config: {key}): evaluation knows how "
                f"{', '.join(families)} does that, and no other"
            )
        steps.append(functools.partial(step, value))
    return lambda hidden: functools.reduce(lambda logits, step: step(logits), steps, embeddings(hidden))


def resolve_bos(model: PreTrainedModel, bos_id: int | None) -> int:
    """The token that starts every window: `bos_id` if given, else the one in the model's config.

    Raises:
        DataError: neither names one, or it lies outside the vocabulary.
    """
    if bos_id is None:
        bos_id = model.config.bos_token_id
    if isinstance(bos_id, list):
        bos_id = bos_id[0]
    if bos_id is None:
        raise DataError("the model's config names no bos_token_id: give bos_id=..., the token that starts every window")
    vocab_size = model.get_input_embeddings().weight.shape[0]
    if not 0 <= bos_id < vocab_size:
        raise DataError(f"bos_id {bos_id} is outside the model's vocabulary of {vocab_size}: give another bos_id")
    return int(bos_id)
