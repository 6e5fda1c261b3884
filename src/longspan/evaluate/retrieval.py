"""Retrieval of a five-digit key hidden in filler, by depth and length (`trials` says when a trial is right)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.data.passkey import LARGEST_KEY, PasskeyTemplate
from longspan.errors import DataError, LengthError
from longspan.evaluate.forward import rows_per_batch
from longspan.evaluate.intervals import Z_95, normal_mean, wilson
from longspan.evaluate.journal import Journal, OnRecords
from longspan.evaluate.trials import Decoding, Filler, PasskeyTrial, passkey_trials
from longspan.lengths import format_length
from longspan.records import Record

_METRICS = ("accuracy", "nll")


def depth_grid(depths: int | Sequence[float]) -> list[float]:
    """Depths from 0 to 1: `depths` equal steps (1: the middle), or the depths given.

    Raises:
        DataError: none, or one outside 0 .. 1.
    """
    if isinstance(depths, int):
        grid = [0.5] if depths == 1 else [step / (depths - 1) for step in range(depths)]
    else:
        grid = [float(depth) for depth in depths]
    if not grid or not all(0 <= depth <= 1 for depth in grid):
        raise DataError(f"depths {depths} cannot be used: give a number of steps, or depths between 0 and 1")
    return grid


def check_passkey_lengths(tokenizer: PreTrainedTokenizerBase, lengths: Sequence[int]) -> None:
    """Make sure that the shortest of `lengths` holds a passkey prompt and its answer.

    Raises:
        LengthError: it does not.
    """
    template = PasskeyTemplate(tokenizer)
    needed = template.shortest(template.head, LARGEST_KEY)
    for length in lengths:
        if length < needed:
            raise LengthError(
                f"a passkey prompt takes at least {needed} tokens with this tokenizer, more than the length {length}: "
                "choose greater lengths"
            )


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
) -> list[Record]:
    """Accuracy and answer NLL on a grid of depths and lengths; frequencies stay as the caller has set them.

    Args:
        lengths: tokens of BOS, prompt and answer together.
        depths: number of steps from 0 to 1, or the depths.
        trials: prompts a cell.
        seed: with length, depth and trial it decides the key and the filler: the same prompts for every arm.
        filler: `template`, or token ids of ordinary text, of which each trial takes a random stretch.
        decoding: `auto`, `forced` (cheapest; an answer must begin with the key) or `generate`: see
            `longspan.evaluate.trials`.
        record_seed: `seed` column of the records (the arm's training seed, say); default `seed`.
        run, method, model_name, train_length, batch_size, progress, done, on_records: as in `perplexity`.
        on_trials: called with the trials of each cell measured now; for paired tests (`intervals.mcnemar`).

    Returns:
        Task `passkey`: for each (length, depth) an `accuracy` (Wilson interval) and an `nll` (nats per digit, mean
        +- 1.96 standard errors), n = trials; and for each length the same over all depths, with depth None.

    Raises:
        LengthError: a length too short for the prompt, or a filler too short for the length.
        DataError: depths or trials that cannot be used; `forced` where digits are not tokens of their own.
    """
    journal = Journal(
        model,
        "passkey",
        run=run,
        method=method,
        model_name=model_name,
        train_length=train_length,
        seed=seed if record_seed is None else record_seed,
        done=done,
        on_records=on_records,
    )
    grid = depth_grid(depths)
    check_passkey_lengths(tokenizer, lengths)

    outcomes_at: dict[tuple[int, float], list[PasskeyTrial]] = {}

    def measure(length: int, depth: float, group: Sequence[float]) -> list[Record]:
        if (length, depth) not in outcomes_at:  # the first of its group that is not found
            missing = [other for other in dict.fromkeys(group) if not journal.found(_METRICS, length, other)]
            measured = passkey_trials(
                model,
                tokenizer,
                length=length,
                depth=missing,
                trials=trials,
                seed=seed,
                filler=filler,
                decoding=decoding,
                batch_size=batch_size,
            )
            for trial in measured:
                outcomes_at.setdefault((length, trial.depth), []).append(trial)
        outcomes = outcomes_at.pop((length, depth))
        if on_trials is not None:
            on_trials(outcomes)
        return _cell(journal, outcomes)

    with tqdm(total=len(lengths) * len(grid), desc="passkey", unit="cell", disable=not progress) as bar:
        for length in lengths:
            bar.set_description(f"passkey {format_length(length)}")
            cells = []
            # short prompts of several depths fill one batch
            together = max(1, rows_per_batch(model, length, batch_size) // max(1, trials))
            for start in range(0, len(grid), together):
                group = grid[start : start + together]
                for depth in group:
                    found = journal.cell(_METRICS, length, depth, functools.partial(measure, length, depth, group))
                    cells.append(found)
                    bar.update()
            journal.cell(_METRICS, length, None, functools.partial(_whole, journal, length, cells))
    return journal.records


def _cell(journal: Journal, outcomes: Sequence[PasskeyTrial]) -> list[Record]:
    shared: dict[str, Any] = {"length": outcomes[0].length, "depth": outcomes[0].depth, "n": len(outcomes)}
    right = sum(outcome.correct for outcome in outcomes)
    nll = [outcome.nll for outcome in outcomes]
    low, high = wilson(right, len(outcomes))
    nll_low, nll_high = normal_mean(nll)
    return [
        journal.record("accuracy", right / len(outcomes), low=low, high=high, **shared),
        journal.record("nll", sum(nll) / len(nll), low=nll_low, high=nll_high, **shared),
    ]


def _whole(journal: Journal, length: int, cells: Sequence[list[Record]]) -> list[Record]:
    """Records of one length over all depths, from those of its cells, so that found cells need no second measuring."""
    shared: dict[str, Any] = {"length": length, "depth": None}
    n = sum(accuracy.n or 0 for accuracy, _ in cells)
    right = sum(round((accuracy.value or 0) * (accuracy.n or 0)) for accuracy, _ in cells)
    low, high = wilson(right, n)
    whole = journal.record("accuracy", right / n, low=low, high=high, n=n, **shared)
    return [whole, _whole_nll(journal, [nll for _, nll in cells], n, shared)]


def _whole_nll(journal: Journal, cells: Sequence[Record], n: int, shared: dict[str, Any]) -> Record:
    """Mean over all trials; its standard error is that of a stratified sample, one stratum a depth."""
    mean = sum(float("nan" if cell.value is None else cell.value) * (cell.n or 0) for cell in cells) / n
    if any(cell.low is None or cell.high is None for cell in cells):
        return journal.record("nll", mean, n=n, **shared)
    errors = [((cell.high or 0) - (cell.low or 0)) / (2 * Z_95) * (cell.n or 0) / n for cell in cells]
    half = Z_95 * float(np.linalg.norm(errors))
    return journal.record("nll", mean, low=mean - half, high=mean + half, n=n, **shared)


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
