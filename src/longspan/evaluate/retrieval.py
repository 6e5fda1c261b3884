"""Passkey from Python: retrieval of a five-digit key hidden in filler, by depth and length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.evaluate.answering import Decoding
from longspan.evaluate.journal import OnRecords, OnScores
from longspan.evaluate.runner import frame_of, measure_samples, outcomes, places_of
from longspan.evaluate.task import Bench, Outcome
from longspan.evaluate.tasks.passkey import Passkey
from longspan.records import Record

Filler = Literal["template"] | Sequence[int]


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
    prompt: str
    """A hash of the prompt's tokens."""


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

    Arguments and errors as in `passkey`.
    """
    bench = Bench(
        model=model,
        tokenizer=tokenizer,
        lengths=[length],
        haystack=_haystack(filler),
        depths=[depth] if isinstance(depth, int | float) else depth,
        trials=trials,
        seed=seed,
        decoding=decoding,
        batch_size=batch_size,
    )
    task = Passkey()
    return _trials(outcomes(task, bench, frame_of(bench, "passkey"), places_of(task, bench, length)))


def _haystack(filler: Filler) -> Sequence[int] | None:
    return None if isinstance(filler, str) else filler


def _trials(found: Sequence[Outcome]) -> list[PasskeyTrial]:
    trials = []
    for outcome in found:
        place = outcome.place
        assert place.depth is not None
        key = int(outcome.sample.references[0])
        trials.append(
            PasskeyTrial(
                length=place.length,
                depth=place.depth,
                trial=place.trial,
                key=key,
                correct=outcome.score == 1,
                nll=outcome.nll,
                prompt=outcome.sample.fingerprint,
            )
        )
    return trials


def passkey(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    lengths: Sequence[int],
    depths: int | Sequence[float] = 11,
    trials: int = 10,
    seed: int = 0,
    filler: Filler = "template",
    decoding: Decoding = "auto",
    batch_size: int | None = None,
    run: str = "",
    method: str | None = None,
    model_name: str | None = None,
    train_length: int | None = None,
    record_seed: int | None = None,
    progress: bool = True,
    done: Iterable[Record] = (),
    on_records: OnRecords | None = None,
    on_trials: Callable[[list[PasskeyTrial]], Any] | None = None,
    on_scores: OnScores | None = None,
) -> list[Record]:
    """Accuracy and answer NLL on a grid of depths and lengths; frequencies stay as the caller has set them.

    Args:
        lengths: tokens of BOS, prompt and answer together.
        depths: number of steps from 0 to 1, or the depths.
        trials: prompts a cell.
        seed: with length, depth and trial it decides the key and the filler: the same prompts for every arm.
        filler: `template`, or token ids of ordinary text, of which each trial takes a random stretch.
        decoding: `auto`, `forced` (cheapest; an answer must begin with the key) or `generate`: see
            `longspan.evaluate.answering`.
        record_seed: `seed` column of the records (the arm's training seed, say); default `seed`.
        run, method, model_name, train_length, batch_size, progress, done, on_records: as in `perplexity`.
        on_trials: called with the trials of each cell measured now; for paired tests (`intervals.mcnemar`).
        on_scores: called with a score for each of them, before the records of the cell are handed on.

    Returns:
        Task `passkey`: for each (length, depth) an `accuracy` (Wilson interval) and an `nll` (nats per digit, mean
        +- 1.96 standard errors), n = trials; and for each length the same over all depths, with depth None.

    Raises:
        LengthError: a length too short for the prompt, or a filler too short for the length.
        DataError: depths or trials that cannot be used; `forced` where digits are not tokens of their own.
    """
    bench = Bench(
        model=model,
        tokenizer=tokenizer,
        lengths=lengths,
        haystack=_haystack(filler),
        depths=depths,
        trials=trials,
        seed=seed,
        decoding=decoding,
        batch_size=batch_size,
        progress=progress,
        columns={
            "run": run,
            "method": method,
            "model_name": model_name,
            "train_length": train_length,
            "seed": seed if record_seed is None else record_seed,
            "done": done,
            "on_records": on_records,
        },
        on_scores=on_scores,
        on_outcomes=None if on_trials is None else lambda _, found: on_trials(_trials(found)),
    )
    return measure_samples(Passkey(), bench, "passkey")


def reach(records: Iterable[Record], threshold: float = 0.5) -> int | None:
    """Largest length at which one arm's passkey accuracy is at least `threshold` at every depth; None if there is none.

    Args:
        records: those of one arm and seed; other tasks and metrics are passed over.
    """
    worst: dict[int, float] = {}
    for record in records:
        if record.task == "passkey" and record.metric == "accuracy" and record.depth is not None:
            assert record.length is not None
            assert record.value is not None
            worst[record.length] = min(record.value, worst.get(record.length, 1.0))
    return max((length for length, value in worst.items() if value >= threshold), default=None)
