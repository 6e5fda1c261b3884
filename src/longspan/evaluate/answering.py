"""The answers of a model to prompts of one length, and whether they are right.

Three ways to tell:

forced    one teacher-forced forward: right if each token of the answer is the most likely one. Wrong for a model that
          puts words before the answer; needs a tokenizer that makes each digit of a number a token
generate  the answer is generated, token by token
auto      forced; then only answers that it leaves open are generated, those for which the next tokens may matter. The
          same verdicts as `generate`, at the cost of `forced` for most models

Frequencies that follow the length are those of the whole row in a forced forward, and grow with the answer in a
generated one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.errors import DataError
from longspan.evaluate.chunks import attending_to_cache
from longspan.evaluate.forward import chunk_size, evaluating, frequencies_follow_length, rows_per_batch, score
from longspan.evaluate.prefix import can_share, pays, reading_in_turn, reading_order
from longspan.evaluate.task import Sample, SampleTask

Decoding = Literal["auto", "forced", "generate"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model made of a sample."""

    text: str
    """The greedy answer as far as it was read: up to where nothing more could change the score."""
    score: float
    nll: float
    """Of the right answer, in nats per unit of the task."""


def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: SampleTask,
    samples: Sequence[Sample],
    *,
    decoding: str = "auto",
    batch_size: int | None = None,
    reuse: bool | None = None,
) -> list[Answer]:
    """Answers to `samples`, which are of one length, in their order.

    Args:
        reuse: whether prompts that begin alike share what they begin with, where that is exact (`prefix`); None: where
            it is faster, too.

    Raises:
        DataError: `forced` where digits are not tokens of their own, or a decoding that is none.
    """
    if decoding not in ("auto", "forced", "generate"):
        raise DataError(f"unknown decoding '{decoding}': use auto, forced or generate")
    if task.by_token:
        decoding = "forced"
    elif decoding == "forced" and not all(_digits_are_tokens(tokenizer, sample) for sample in samples):
        raise DataError("this tokenizer merges digits, so forced decoding is not exact: use decoding='auto'")
    if shares(model, samples[0].length, batch_size, reuse):
        with evaluating(model):
            return _answer_in_turn(model, tokenizer, task, samples, decoding)
    rows = rows_per_batch(model, samples[0].length, batch_size)
    further = task.reads_on and decoding == "auto" and not frequencies_follow_length(model)
    with evaluating(model):
        forced = [found for batch in _batches(samples, rows) for found in _force(model, batch, further)]
        read = [
            None if decoding == "generate" else _read(tokenizer, task, sample, choices, decoding)
            for sample, (_, choices) in zip(samples, forced, strict=True)
        ]
        open_ = [sample for sample, verdict in zip(samples, read, strict=True) if verdict is None]
        generated = iter(_generate(model, tokenizer, task, open_, rows))
    answers = []
    for sample, verdict, (loss, _) in zip(samples, read, forced, strict=True):
        text, found = verdict or _whole(task, sample, next(generated))
        answers.append(Answer(text, found, loss / task.nll_units(sample)))
    return answers


def shares(model: PreTrainedModel, length: int, batch_size: int | None, reuse: bool | None) -> bool:
    """Whether prompts of `length` are read in turn: if asked for, or where it is faster, and where it is exact."""
    if reuse is None:
        reuse = pays(model, length, rows_per_batch(model, length, batch_size))
    return reuse and can_share(model)


def _answer_in_turn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: SampleTask,
    samples: Sequence[Sample],
    decoding: str,
) -> list[Answer]:
    """The answers, with one cache for all prompts."""
    found = {}
    with reading_in_turn(model, samples[0].length) as reader:
        for number in reading_order(samples):
            sample = samples[number]
            loss, choices = reader.force(sample)
            verdict = None if decoding == "generate" else _read(tokenizer, task, sample, choices, decoding)
            if verdict is None:
                limit = task.new_tokens(sample)
                answer = reader.generate(sample, max_new_tokens=limit, **_greedy(tokenizer))
                verdict = _whole(task, sample, tokenizer.decode(answer, skip_special_tokens=True))
            found[number] = Answer(*verdict, loss / task.nll_units(sample))
    return [found[number] for number in range(len(samples))]


def _greedy(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    # padding only stands after an end of text, where nothing is read
    return {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "pad_token_id": pad}


def _batches(samples: Sequence[Sample], rows: int) -> list[Sequence[Sample]]:
    return [samples[start : start + rows] for start in range(0, len(samples), rows)]


def _whole(task: SampleTask, sample: Sample, text: str) -> tuple[str, float]:
    return text, task.score(text, sample)


def _digits_are_tokens(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> bool:
    """Whether each digit of the answer is a token, apart from blanks around it."""
    pieces = (tokenizer.decode([token]).strip() for token in sample.answer_ids)
    return all(len(piece) == 1 or not any(map(str.isdigit, piece)) for piece in pieces)


def _force(model: PreTrainedModel, samples: Sequence[Sample], further: bool) -> list[tuple[float, list[int]]]:
    """NLL of each answer, and the most likely token in the place of each of its tokens: one forward.

    With `further`, the most likely token behind the answer, too: rows then have one token more, whichever it is.
    """
    more = [0] if further else []
    rows = torch.tensor([[*sample.prompt_ids, *sample.answer_ids, *more] for sample in samples])
    counts = [len(sample.answer_ids) + further for sample in samples]
    row = torch.arange(len(samples)).repeat_interleave(torch.tensor(counts))
    column = torch.cat([torch.arange(rows.shape[1] - count, rows.shape[1]) for count in counts])
    scores = score(model, rows, row, column)
    nll = [
        float(part[: len(sample.answer_ids)].sum())
        for sample, part in zip(samples, scores.nll.split(counts), strict=True)
    ]
    return list(zip(nll, (part.tolist() for part in scores.choice.split(counts)), strict=True))


def _read(
    tokenizer: PreTrainedTokenizerBase, task: SampleTask, sample: Sample, choices: Sequence[int], decoding: str
) -> tuple[str, float] | None:
    """The greedy answer and its score as far as a forced forward tells; None where more tokens decide."""
    pairs = zip(choices, sample.answer_ids, strict=False)
    off = next((place for place, (choice, answer) in enumerate(pairs) if choice != answer), None)
    last = len(sample.answer_ids) if off is None else off
    greedy = [*sample.answer_ids[:last], *choices[last : last + 1]]
    text = tokenizer.decode(greedy, skip_special_tokens=True)
    if decoding == "forced":
        return text, float(off is None)
    if greedy[-1] == tokenizer.eos_token_id:
        return text, task.score(text, sample)
    found = task.settled(text, sample)
    return None if found is None else (text, found)


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: SampleTask,
    samples: Sequence[Sample],
    rows: int,
) -> list[str]:
    """The greedy answer to each prompt; `rows` prompts at a time."""
    texts: dict[int, str] = {}

    def prompt_length(number: int) -> int:
        return len(samples[number].prompt_ids)

    # answers of different lengths leave prompts of different lengths; rows of one batch must be equally long
    for _, group in groupby(sorted(range(len(samples)), key=prompt_length), key=prompt_length):
        alike = list(group)
        for start in range(0, len(alike), rows):
            batch = alike[start : start + rows]
            limits = [task.new_tokens(samples[number]) for number in batch]
            prompts = torch.tensor([samples[number].prompt_ids for number in batch], device=model.device)
            size = chunk_size(model, prompts.shape[1])
            with contextlib.nullcontext() if size is None else attending_to_cache(model, prompts.shape[1]):
                answers = model.generate(
                    prompts,
                    attention_mask=torch.ones_like(prompts),
                    max_new_tokens=max(limits),
                    prefill_chunk_size=size,
                    **_greedy(tokenizer),
                )
            for number, limit, answer in zip(batch, limits, answers[:, prompts.shape[1] :], strict=True):
                texts[number] = tokenizer.decode(answer[:limit], skip_special_tokens=True)
    return [texts[number] for number in range(len(samples))]
