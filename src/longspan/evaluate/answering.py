"""Passkey trials: prompts of a length, the answers of a model, and whether they are right.

A trial is right if the first five digits of the greedy answer (at most 10 new tokens) are the key. Three ways to tell:

forced    one teacher-forced forward: right if each token of the answer is the most likely one. Wrong for a model that
          puts words before the digits; needs a tokenizer that makes each digit a token
generate  the answer is generated, token by token
auto      forced; then only answers that it leaves open are generated, those whose first token off the key has no digit
          that contradicts it. The same verdicts as `generate`, at the cost of `forced` for most models

Frequencies that follow the length are those of the whole row in a forced forward, and grow with the answer in a
generated one.
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
    depth: float | Sequence[float],
    trials: int,
    seed: int = 0,
    filler: Filler = "template",
    decoding: Decoding = "auto",
    batch_size: int | None = None,
) -> list[PasskeyTrial]:
    """The trials of one depth, in order, or of several, depth after depth; they share batches.

    Arguments and errors as in `longspan.evaluate.passkey`.
    """
    if trials < 1:
        raise DataError(f"trials is {trials}: it must be at least 1")
    template = PasskeyTemplate(tokenizer)
    depths = [depth] if isinstance(depth, int | float) else depth
    places = [(depth, trial) for depth in depths for trial in range(trials)]
    samples = [_sample(template, length, depth, seed, trial, filler) for depth, trial in places]
    if decoding == "forced" and not all(_digits_are_tokens(tokenizer, sample) for sample in samples):
        raise DataError("this tokenizer merges digits, so forced decoding is not exact: use decoding='auto'")
    rows = rows_per_batch(model, length, batch_size)
    with evaluating(model):
        forced = [_force(model, samples[start : start + rows]) for start in range(0, len(samples), rows)]
        nll = [loss for losses, _ in forced for loss in losses]
        verdicts = [
            None if decoding == "generate" else _verdict(tokenizer, sample, answer, decoding)
            for sample, answer in zip(samples, (choice for _, choices in forced for choice in choices), strict=True)
        ]
        open_ = [sample for sample, verdict in zip(samples, verdicts, strict=True) if verdict is None]
        generated = iter(_generate(model, tokenizer, open_, rows))
    return [
        PasskeyTrial(length, depth, trial, sample.key, next(generated) if verdict is None else verdict, loss)
        for (depth, trial), sample, verdict, loss in zip(places, samples, verdicts, nll, strict=True)
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


def _force(model: PreTrainedModel, samples: Sequence[PasskeySample]) -> tuple[list[float], list[list[int]]]:
    """NLL per digit of the key, and the most likely token in the place of each answer token: one forward."""
    rows = torch.tensor([[*sample.prompt_ids, *sample.answer_ids] for sample in samples])
    counts = [len(sample.answer_ids) for sample in samples]
    row = torch.arange(len(samples)).repeat_interleave(torch.tensor(counts))
    column = torch.cat([torch.arange(rows.shape[1] - count, rows.shape[1]) for count in counts])
    scores = score(model, rows, row, column)
    nll = [float(part.sum()) / _DIGITS for part in scores.nll.split(counts)]
    return nll, [part.tolist() for part in scores.choice.split(counts)]


def _verdict(
    tokenizer: PreTrainedTokenizerBase, sample: PasskeySample, choices: Sequence[int], decoding: Decoding
) -> bool | None:
    """Whether the greedy answer is right as far as a forced forward tells; None where more tokens decide."""
    pairs = zip(choices, sample.answer_ids, strict=True)
    off = next((place for place, (choice, answer) in enumerate(pairs) if choice != answer), None)
    if off is None or decoding == "forced":
        return off is None
    # up to here the greedy answer is the key's; its next token may still leave the key possible
    digits = _digits(tokenizer.decode([*sample.answer_ids[:off], choices[off]], skip_special_tokens=True))
    if digits == str(sample.key):
        return True
    return None if str(sample.key).startswith(digits) else False


def _digits(text: str) -> str:
    return "".join(re.findall(r"[0-9]", text))[:_DIGITS]


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Sequence[PasskeySample], rows: int
) -> list[bool]:
    """Whether the first five digits of each greedy answer are the key; `rows` prompts at a time."""
    right: dict[int, bool] = {}
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    # merged digits make answers, hence prompts, of different lengths; rows of one batch must be equally long
    order = sorted(range(len(samples)), key=lambda trial: len(samples[trial].prompt_ids))
    for _, group in groupby(order, key=lambda trial: len(samples[trial].prompt_ids)):
        alike = list(group)
        for start in range(0, len(alike), rows):
            batch = alike[start : start + rows]
            prompts = torch.tensor([samples[trial].prompt_ids for trial in batch], device=model.device)
            answers = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=_NEW_TOKENS,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                pad_token_id=pad,  # only stands after an end of text, where nothing is read
            )
            texts = tokenizer.batch_decode(answers[:, prompts.shape[1] :], skip_special_tokens=True)
            right |= {trial: _digits(text) == str(samples[trial].key) for trial, text in zip(batch, texts, strict=True)}
    return [right[trial] for trial in range(len(samples))]
