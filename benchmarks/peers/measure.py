"""What readers and models score in both suites."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.peers.readers import reader_of, recite
from benchmarks.peers.ruler import Ruler
from benchmarks.peers.suites import Suites
from longspan.data.tokenizer import encode
from longspan.intervals import normal_mean, share_difference, wilson
from longspan.records import Record

Answer = Callable[[Sequence[int], int], str]
"""What is said after a prompt of these tokens, in so many tokens at most."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the length, that a reader sees."""


def readers(tokenizer: PreTrainedTokenizerBase, name: str, length: int) -> Iterator[tuple[str, Answer]]:
    """Readers of every share of the length, and one that recites all it sees."""
    read = reader_of(name)
    for share in SHARES:
        yield f"reads the last {share:g}", _reader(tokenizer, read, round(share * length))
    yield "recites all", _reader(tokenizer, recite, length)


def _reader(tokenizer: PreTrainedTokenizerBase, read: Callable[[str], str], window: int) -> Answer:
    def say(ids: Sequence[int], limit: int) -> str:
        answer = encode(tokenizer, read(tokenizer.decode(ids[-window:])))
        return str(tokenizer.decode(answer[:limit]))

    return say


def greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Answer:
    """The most likely continuation, as `generate` finds it."""

    def say(ids: Sequence[int], limit: int) -> str:
        prompt = torch.tensor([list(ids)], device=model.device)
        settings = {"max_new_tokens": limit, "do_sample": False, "pad_token_id": 0}
        found = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        return str(tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True))

    return say


def readings(ruler: Ruler, suites: Suites, length: int, who: str, say: Answer) -> Iterator[Record]:
    """Scores of one who answers: by each suite on its own prompts, by RULER's scorer on ours, and the difference."""
    limit = ruler.new_tokens(suites.name)
    theirs = [
        ruler.score(suites.name, say(ids, limit), prompt.references)
        for prompt, ids in zip(suites.theirs, suites.their_ids, strict=True)
    ]
    answers = [say(sample.prompt_ids, suites.task.new_tokens(sample)) for sample in suites.ours]
    pairs = list(zip(answers, suites.ours, strict=True))
    ours = [suites.task.score(answer, sample) for answer, sample in pairs]
    again = [ruler.score(suites.name, answer, sample.references) for answer, sample in pairs]
    for metric, found in (("RULER", theirs), ("longspan", ours), ("longspan, RULER's scorer", again)):
        low, high = wilson(sum(found), len(found))
        yield row(suites.name, who, metric, length, statistics.fmean(found), low, high, len(found))
    apart = share_difference((sum(theirs), len(theirs)), (sum(ours), len(ours)))
    n = len(theirs) + len(ours)
    yield row(suites.name, who, "RULER less longspan", length, apart.value, apart.low, apart.high, n)


def statistics_of(suites: Suites, length: int) -> Iterator[Record]:
    """How long prompts are, and how far back what they ask for stands, as a share of the prompt."""
    found = {
        "RULER": (list(map(len, suites.their_ids)), suites.their_distances),
        "longspan": (
            [len(sample.prompt_ids) for sample in suites.ours],
            [sample.distance or 0 for sample in suites.ours],
        ),
    }
    for who, (sizes, distances) in found.items():
        shares = [distance / size for distance, size in zip(distances, sizes, strict=True)]
        for metric, values in (("prompt tokens", sizes), ("distance, share of prompt", shares)):
            low, high = normal_mean(values)
            yield row(suites.name, who, metric, length, statistics.fmean(values), low, high, len(values))


def row(
    name: str, who: str, metric: str, length: int, value: float, low: float | None, high: float | None, n: int
) -> Record:
    return Record(
        run="evaluation/peers", method="none", model=who, task=name, metric=metric, value=value, low=low, high=high,
        n=n, length=length,
    )  # fmt: skip
