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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.errors import DataError
from longspan.evaluate.forward import evaluating, rows_per_batch, score
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
) -> list[Answer]:
    """Answers to `samples`, which are of one length, in their order.

    Raises:
        DataError: `forced` where digits are not tokens of their own, or a decoding that is none.
    """
    if decoding not in ("auto", "forced", "generate"):
        raise DataError(f"unknown decoding '{decoding}': use auto, forced or generate")
    if task.by_token:
        decoding = "forced"
    elif decoding == "forced" and not all(_digits_are_tokens(tokenizer, sample) for sample in samples):
        raise DataError("this tokenizer merges digits, so forced decoding is not exact: use decoding='auto'")
    rows = rows_per_batch(model, samples[0].length, batch_size)
    with evaluating(model):
        forced = [found for batch in _batches(samples, rows) for found in _force(model, batch)]
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


def _batches(samples: Sequence[Sample], rows: int) -> list[Sequence[Sample]]:
    return [samples[start : start + rows] for start in range(0, len(samples), rows)]


def _whole(task: SampleTask, sample: Sample, text: str) -> tuple[str, float]:
    return text, task.score(text, sample)


def _digits_are_tokens(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> bool:
    """Whether each digit of the answer is a token, apart from blanks around it."""
    pieces = (tokenizer.decode([token]).strip() for token in sample.answer_ids)
    return all(len(piece) == 1 or not any(map(str.isdigit, piece)) for piece in pieces)


def _force(model: PreTrainedModel, samples: Sequence[Sample]) -> list[tuple[float, list[int]]]:
    """NLL of each answer, and the most likely token in the place of each of its tokens: one forward."""
    rows = torch.tensor([[*sample.prompt_ids, *sample.answer_ids] for sample in samples])
    counts = [len(sample.answer_ids) for sample in samples]
    row = torch.arange(len(samples)).repeat_interleave(torch.tensor(counts))
    column = torch.cat([torch.arange(rows.shape[1] - count, rows.shape[1]) for count in counts])
    scores = score(model, rows, row, column)
    nll = [float(part.sum()) for part in scores.nll.split(counts)]
    return list(zip(nll, (part.tolist() for part in scores.choice.split(counts)), strict=True))


def _read(
    tokenizer: PreTrainedTokenizerBase, task: SampleTask, sample: Sample, choices: Sequence[int], decoding: str
) -> tuple[str, float] | None:
    """The greedy answer and its score as far as a forced forward tells; None where more tokens decide."""
    pairs = zip(choices, sample.answer_ids, strict=True)
    off = next((place for place, (choice, answer) in enumerate(pairs) if choice != answer), None)
    greedy = sample.answer_ids if off is None else [*sample.answer_ids[:off], choices[off]]
    text = tokenizer.decode(greedy, skip_special_tokens=True)
    if decoding == "forced":
        return text, float(off is None)
    if off is not None and choices[off] in _ends(tokenizer):
        return text, task.score(text, sample)
    found = task.settled(text, sample)
    return None if found is None else (text, found)


def _ends(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: SampleTask,
    samples: Sequence[Sample],
    rows: int,
) -> list[str]:
    """The greedy answer to each prompt; `rows` prompts at a time."""
    texts: dict[int, str] = {}
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)

    def prompt_length(number: int) -> int:
        return len(samples[number].prompt_ids)

    # answers of different lengths leave prompts of different lengths; rows of one batch must be equally long
    for _, group in groupby(sorted(range(len(samples)), key=prompt_length), key=prompt_length):
        alike = list(group)
        for start in range(0, len(alike), rows):
            batch = alike[start : start + rows]
            limits = [task.new_tokens(samples[number]) for number in batch]
            prompts = torch.tensor([samples[number].prompt_ids for number in batch], device=model.device)
            answers = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=max(limits),
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                pad_token_id=pad,  # only stands after an end of text, where nothing is read
            )
            for number, limit, answer in zip(batch, limits, answers[:, prompts.shape[1] :], strict=True):
                texts[number] = tokenizer.decode(answer[:limit], skip_special_tokens=True)
    return [texts[number] for number in range(len(samples))]
