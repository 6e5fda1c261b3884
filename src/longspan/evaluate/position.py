"""Loss by position inside one long window: shows where a method breaks, which an average hides."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from longspan.errors import LengthError
from longspan.evaluate.forward import evaluating, resolve_bos, rows_per_batch, score
from longspan.evaluate.journal import Journal, OnRecords
from longspan.evaluate.windows import as_documents, long_enough
from longspan.intervals import bootstrap
from longspan.lengths import format_length
from longspan.processes import ALONE, Processes
from longspan.records import Record

_FIRST_EDGE = 4


def position_buckets(length: int, train_length: int) -> list[tuple[int, int]]:
    """Ranges [first, last) of positions 1 .. length - 1: two an octave below `train_length`, an eighth of it above.

    Position p is that of the predicted token in a window whose BOS has position 0.
    """
    edges = {1, length}
    octave_half = 0
    while (edge := round(train_length * 2 ** (-octave_half / 2))) >= _FIRST_EDGE:
        edges.add(edge)
        octave_half += 1
    width = max(1, train_length // 8)
    edges.update(range(train_length, length, width))
    inside = sorted(edge for edge in edges if edge <= length)
    return list(itertools.pairwise(inside))


def position_curve(
    model: PreTrainedModel,
    ids: Tensor | Sequence[Tensor],
    *,
    length: int,
    bos_id: int | None = None,
    batch_size: int | None = None,
    run: str = "",
    method: str | None = None,
    model_name: str | None = None,
    train_length: int | None = None,
    seed: int | None = None,
    progress: bool = True,
    processes: Processes = ALONE,
    done: Iterable[Record] = (),
    on_records: OnRecords | None = None,
) -> list[Record]:
    """Mean NLL in position buckets of one forward of [BOS] + length - 1 tokens per document, from its start.

    Args as in `perplexity`; `train_length` also places the buckets (default: what the model says).

    Returns:
        A record a bucket: task `position`, metric `nll` (nats per token), depth = middle of the bucket / length,
        n = scored tokens; the interval is a bootstrap over documents, null if there is one only.

    Raises:
        LengthError: length below 2, or no train_length given and none known.
        DataError: no document of length - 1 tokens, or unusable ids.
    """
    if length < 2:
        raise LengthError(f"length {length} is too short for a position curve: give at least 2")
    journal = Journal(
        model,
        "position",
        run=run,
        method=method,
        model_name=model_name,
        train_length=train_length,
        seed=seed,
        done=done,
        on_records=on_records,
    )
    if journal.columns["train_length"] is None:
        raise LengthError("the model does not say at which length it was trained: give train_length")
    buckets = position_buckets(length, journal.columns["train_length"])
    cells: list[dict[str, Any]] = [
        {"metric": "nll", "length": length, "depth": (first + last) / 2 / length} for first, last in buckets
    ]

    def measure() -> list[Record]:
        sums = _bucket_sums(model, ids, length, buckets, bos_id, batch_size, progress, processes)
        records = []
        for (first, last), cell, column in zip(buckets, cells, sums.T, strict=True):
            low, high = bootstrap(column, np.full(len(column), last - first))
            n = len(column) * (last - first)
            records.append(journal.record(value=float(column.sum() / n), low=low, high=high, n=n, **cell))
        return records

    journal.cells(cells, measure)
    return journal.records


def _bucket_sums(
    model: PreTrainedModel,
    ids: Tensor | Sequence[Tensor],
    length: int,
    buckets: list[tuple[int, int]],
    bos_id: int | None,
    batch_size: int | None,
    progress: bool,
    processes: Processes,
) -> np.ndarray:
    """Sum of the NLL of each document in each bucket, float64 [documents, buckets]."""
    documents = as_documents(ids, model.get_input_embeddings().weight.shape[0])
    kept = long_enough(documents, length - 1)
    bos = torch.tensor([resolve_bos(model, bos_id)])
    rows = rows_per_batch(model, length, batch_size)
    starts = np.array([first - 1 for first, _ in buckets])  # column p - 1 holds the loss at position p
    label = f"position {format_length(length)}"

    def own_sums(numbers: Sequence[int]) -> list[np.ndarray]:
        sums: list[np.ndarray] = []
        with tqdm(total=len(numbers), desc=label, unit="document", disable=not progress) as bar:
            for start in range(0, len(numbers), rows):
                chosen = [documents[number][: length - 1] for number in numbers[start : start + rows]]
                batch = torch.stack([torch.cat([bos, tokens]) for tokens in chosen])
                row = torch.arange(len(batch)).repeat_interleave(length - 1)
                column = torch.arange(1, length).repeat(len(batch))
                nll = score(model, batch, row, column).nll.view(len(batch), length - 1).numpy()
                sums += list(np.add.reduceat(nll, starts, axis=1))
                bar.update(len(batch))
        return sums

    with evaluating(model):
        sums: list[np.ndarray] = processes.share(kept, own_sums)
    return np.stack(sums)
