"""Passkey trials: prompts of one cell, the answers of a model, and whether they are right.

A trial is right if the first five digits of the greedy answer (at most 10 new tokens) are the key. Where each digit is
a token of its own, greedy decoding gives the key exactly when the key's tokens are the most likely ones at each step
of one teacher-forced forward (`forced`); otherwise the answer is generated (`generate`). The two differ only for a
model that puts something else before the digits, which `forced` counts as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.data.passkey import PasskeySample, PasskeyTemplate, random_key
from longspan.errors import DataError
from longspan.evaluate.forward import evaluating, rows_per_batch, score

Decoding = Literal["auto", "forced", "generate"]
Filler = Literal["template"] | Sequence[int]

_DIGITS = 5
_NEW_TOKENS = 10


@dataclass(frozen=True, slots=True)
class PasskeyTrial:
    """One prompt and what the model made of it."""

    length: int
    depth: float
    trial: int
    key: int
    correct: bool
    nll: float
    """Negative log-likelihood of the answer, teacher forced, in nats per digit of the key; a guess costs ln 10."""


def passkey_trials(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    depth: float,
    trials: int,
    seed: int = 0,
    filler: Filler = "template",
    decoding: Decoding = "auto",
    batch_size: int | None = None,
) -> list[PasskeyTrial]:
    """The trials of one cell, in order; arguments and errors as in `longspan.evaluate.passkey`."""
    if trials < 1:
        raise DataError(f"trials is {trials}: it must be at least 1")
    template = PasskeyTemplate(tokenizer)
    samples = [_sample(template, length, depth, seed, trial, filler) for trial in range(trials)]
    if decoding == "auto":
        decoding = "forced" if all(_digits_are_tokens(tokenizer, sample) for sample in samples) else "generate"
    elif decoding == "forced" and not all(_digits_are_tokens(tokenizer, sample) for sample in samples):
        raise DataError("this tokenizer merges digits, so forced decoding is not exact: use decoding='generate'")
    rows = rows_per_batch(model, length, batch_size)
    batches = [samples[start : start + rows] for start in range(0, trials, rows)]
    nll: list[float] = []
    right: list[bool] = []
    with evaluating(model):
        for batch in batches:
            batch_nll, batch_right = _force(model, batch)
            nll += batch_nll
            right += batch_right if decoding == "forced" else _generate(model, tokenizer, batch)
    return [
        PasskeyTrial(length, depth, trial, sample.key, correct, loss)
        for trial, (sample, correct, loss) in enumerate(zip(samples, right, nll, strict=True))
    ]


def _sample(
    template: PasskeyTemplate, length: int, depth: float, seed: int, trial: int, filler: Filler
) -> PasskeySample:
    """The prompt that (seed, length, depth, trial) stands for, whatever else is measured."""
    rng = np.random.default_rng([seed, length, round(depth * 1_000_000), trial])
    key = random_key(rng)
    if isinstance(filler, str):
        return template.sample(length, depth, key, filler)
    start = int(rng.integers(max(1, len(filler) - length + 1)))
    return template.sample(length, depth, key, [int(token) for token in filler[start : start + length]])


def _digits_are_tokens(tokenizer: PreTrainedTokenizerBase, sample: PasskeySample) -> bool:
    """Whether the answer is one token a digit, apart from blanks before it."""
    pieces = [tokenizer.decode([token]).strip() for token in sample.answer_ids]
    while pieces and not pieces[0]:
        pieces.pop(0)
    return pieces == list(str(sample.key))


def _force(model: PreTrainedModel, samples: Sequence[PasskeySample]) -> tuple[list[float], list[bool]]:
    """NLL per digit of the key, and whether every answer token was the most likely one: one forward."""
    rows = torch.tensor([[*sample.prompt_ids, *sample.answer_ids] for sample in samples])
    counts = [len(sample.answer_ids) for sample in samples]
    row = torch.arange(len(samples)).repeat_interleave(torch.tensor(counts))
    column = torch.cat([torch.arange(rows.shape[1] - count, rows.shape[1]) for count in counts])
    scores = score(model, rows, row, column)
    nll = [float(part.sum()) / _DIGITS for part in scores.nll.split(counts)]
    return nll, [bool(part.all()) for part in scores.hit.split(counts)]


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Sequence[PasskeySample]
) -> list[bool]:
    """Whether the first five digits of each greedy answer are the key."""
    right: list[bool] = []
    # merged digits make answers, hence prompts, of different lengths; rows of one batch must be equally long
    for _, group in groupby(samples, key=lambda sample: len(sample.prompt_ids)):
        batch = list(group)
        prompts = torch.tensor([sample.prompt_ids for sample in batch], device=model.device)
        pad = next(
            (i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0
        )  # only stands after an end of text, where nothing is read
        answers = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=_NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
        )
        texts = tokenizer.batch_decode(answers[:, prompts.shape[1] :], skip_special_tokens=True)
        found = ["".join(re.findall(r"[0-9]", text))[:_DIGITS] for text in texts]
        right += [digits == str(sample.key) for digits, sample in zip(found, batch, strict=True)]
    return right
