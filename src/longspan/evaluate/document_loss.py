"""Perplexity by window length: token-weighted, on the same targets for every length.

Protocol. A window of W tokens is [BOS] + W - 1 tokens of a document, positions from 0, a fresh forward without cache.
Windows start every S tokens; a token is scored once, in the first window that contains it, so outside the first window
it has at least W - 1 - S tokens of context. `all` scores every token; `matched` scores tokens at index >= W_max only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from longspan.errors import DataError
from longspan.evaluate.forward import evaluating, resolve_bos, rows_per_batch, score
from longspan.evaluate.journal import Journal, OnRecords, OnScores
from longspan.evaluate.windows import Protocol, Span, as_documents, long_enough, make_protocol, spans
from longspan.files import value_hash
from longspan.intervals import Difference, bootstrap, paired_ratio_difference
from longspan.lengths import format_length
from longspan.processes import ALONE, Processes
from longspan.records import Record
from longspan.scores import Score


@dataclass(frozen=True, slots=True)
class DocumentNll:
    """Sums of each document that was long enough, in the order given; all of shape [documents]."""

    nll: NDArray[np.float64]
    """Sum of the negative log-likelihoods, in nats."""
    tokens: NDArray[np.int64]
    """Scored tokens."""
    byte_counts: NDArray[np.int64] | None
    """Bytes of the scored tokens, if a table of bytes was given."""
    documents: tuple[int, ...]
    """Places of these documents in the list that was given."""
    targets: tuple[str, ...]
    """A hash of the scored tokens of each of them."""

    @property
    def mean(self) -> float:
        """Mean nats per token over all documents."""
        return float(self.nll.sum() / self.tokens.sum())


def perplexity(
    model: PreTrainedModel,
    ids: Tensor | Sequence[Tensor],
    *,
    lengths: Sequence[int],
    stride: int | None = None,
    variant: str = "matched",
    matched_from: int | None = None,
    max_targets: int | None = None,
    bos_id: int | None = None,
    token_bytes: Tensor | None = None,
    batch_size: int | None = None,
    run: str = "",
    method: str | None = None,
    model_name: str | None = None,
    train_length: int | None = None,
    seed: int | None = None,
    task: str = "perplexity",
    progress: bool = True,
    processes: Processes = ALONE,
    done: Iterable[Record] = (),
    on_records: OnRecords | None = None,
    on_documents: Callable[[int, DocumentNll], Any] | None = None,
    on_scores: OnScores | None = None,
) -> list[Record]:
    """Perplexity and mean NLL at each window length; frequencies stay as the caller has set them.

    Args:
        ids: one document, LongTensor [tokens], or a list of them, without BOS.
        lengths: window lengths W in tokens, BOS included.
        stride: tokens between window starts; default W // 4, at most 512.
        variant: `matched` (tokens at index >= W_max) or `all`.
        matched_from: W_max, when the lengths of one comparison are measured in separate calls; default max(lengths).
        max_targets: scored tokens per document at most, the same ones for every length; default all.
        bos_id: token that starts each window; default the config's.
        token_bytes: bytes of each token id, LongTensor [vocabulary]: adds bits per byte (see `token_byte_counts`).
        batch_size: windows in one forward; default by a token budget.
        run, method, model_name, train_length, seed: columns of the records; method and train_length are read from
            the model if absent.
        task: what the records call it.
        processes: those that share the windows; each of them calls this alike, and gets all records.
        done, on_records: see `longspan.evaluate.journal`.
        on_documents: called with (length, sums per document) for each length measured now; for paired comparisons.
        on_scores: called with a score for each document of a length measured now, before its records are handed on.

    Returns:
        For each length two records: metric `perplexity` and `nll` (nats per token), and
        `bits_per_byte` if asked for; n = scored tokens. The interval is a bootstrap over documents, null if there
        is one only.

    Raises:
        LengthError: lengths and stride that contradict each other.
        DataError: no document of W_max + S tokens (S is the stride at W_max), or unusable ids.
    """
    protocol = make_protocol(lengths, stride, variant, matched_from, max_targets)
    journal = Journal(
        model,
        task,
        run=run,
        method=method,
        model_name=model_name,
        train_length=train_length,
        seed=seed,
        done=done,
        on_records=on_records,
    )
    metrics = ["perplexity", "nll"] + ([] if token_bytes is None else ["bits_per_byte"])

    def measure(length: int) -> list[Record]:
        sums = document_nll(
            model,
            ids,
            length=length,
            protocol=protocol,
            bos_id=bos_id,
            token_bytes=token_bytes,
            batch_size=batch_size,
            progress=progress,
            processes=processes,
        )
        if on_documents is not None:
            on_documents(length, sums)
        if on_scores is not None:
            on_scores(document_scores(journal, sums, length))
        return _records(journal, sums, length)

    for length in lengths:
        journal.cell(metrics, length, None, functools.partial(measure, length))
    return journal.records


def _records(journal: Journal, sums: DocumentNll, length: int) -> list[Record]:
    mean = sums.mean
    low, high = bootstrap(sums.nll, sums.tokens)
    shared: dict[str, Any] = {"length": length, "n": int(sums.tokens.sum())}
    exponents = {"low": _exp(low), "high": _exp(high)}
    records = [
        journal.record("perplexity", _exp(mean) or math.nan, **exponents, **shared),
        journal.record("nll", mean, low=low, high=high, **shared),
    ]
    if sums.byte_counts is not None:
        bits = sums.nll / math.log(2)
        low, high = bootstrap(bits, sums.byte_counts)
        value = float(bits.sum() / sums.byte_counts.sum())
        records.append(journal.record("bits_per_byte", value, low=low, high=high, **shared))
    return records


def document_scores(journal: Journal, sums: DocumentNll, length: int) -> list[Score]:
    """What each document scored at `length`."""
    return [
        journal.score(f"document {place} {targets}", {"nll": nll / tokens}, weight=float(tokens), length=length)
        for place, targets, nll, tokens in zip(
            sums.documents, sums.targets, sums.nll.tolist(), sums.tokens.tolist(), strict=True
        )
    ]


def _exp(nats: float | None) -> float | None:
    """Perplexity of `nats` per token; None where there is none, or where no float can hold it."""
    return None if nats is None or not nats < 700 else math.exp(nats)


def document_nll(
    model: PreTrainedModel,
    ids: Tensor | Sequence[Tensor],
    *,
    length: int,
    protocol: Protocol | None = None,
    bos_id: int | None = None,
    token_bytes: Tensor | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    processes: Processes = ALONE,
) -> DocumentNll:
    """Sums per document at one window length, for paired comparisons of arms.

    Args as in `perplexity`; `protocol` comes from `make_protocol` (default: matched targets of this length alone).

    Raises:
        LengthError, DataError: as `perplexity`.
    """
    protocol = protocol or make_protocol([length], None, "matched", None, None)
    vocab_size = model.get_input_embeddings().weight.shape[0]
    documents = as_documents(ids, vocab_size)
    kept = long_enough(documents, protocol.shortest_document)
    if token_bytes is not None and len(token_bytes) < vocab_size:
        raise DataError(f"token_bytes has {len(token_bytes)} entries, the model's vocabulary is {vocab_size}")
    bos = torch.tensor([resolve_bos(model, bos_id)])
    nll = np.zeros(len(documents))
    tokens = np.zeros(len(documents), dtype=np.int64)
    sizes = np.zeros(len(documents), dtype=np.int64)
    plan = [span for number in kept for span in spans(number, len(documents[number]), length, protocol)]
    rows = rows_per_batch(model, length, batch_size)
    label = f"perplexity {format_length(length)}"

    def losses(windows: Sequence[Span]) -> list[float]:
        found: list[float] = []
        with tqdm(total=len(windows), desc=label, unit="window", disable=not progress) as bar:
            for start in range(0, len(windows), rows):
                batch = windows[start : start + rows]
                found += _score_batch(model, documents, bos, batch, length)
                bar.update(len(batch))
        return found

    with evaluating(model):
        parts = processes.share(plan, losses)
    for span, part in zip(plan, parts, strict=True):
        nll[span.document] += part
        tokens[span.document] += span.last - span.first
        if token_bytes is not None:
            sizes[span.document] += int(token_bytes[documents[span.document][span.first : span.last]].sum())
    scored = [documents[i][protocol.first_target : protocol.last_target(len(documents[i]))] for i in kept]
    names = tuple(value_hash(part.tolist()) for part in scored)
    return DocumentNll(nll[kept], tokens[kept], None if token_bytes is None else sizes[kept], tuple(kept), names)


def _score_batch(
    model: PreTrainedModel, documents: list[Tensor], bos: Tensor, batch: Sequence[Span], length: int
) -> list[float]:
    """Sum of the NLL of the scored tokens of each window."""
    rows = torch.stack([torch.cat([bos, documents[s.document][s.start : s.start + length - 1]]) for s in batch])
    counts = [span.last - span.first for span in batch]
    row = torch.arange(len(batch)).repeat_interleave(torch.tensor(counts))
    # BOS stands before the document's tokens, so token i of the document is column i - start + 1
    column = torch.cat([torch.arange(s.first - s.start + 1, s.last - s.start + 1) for s in batch])
    scores = score(model, rows, row, column)
    return [float(part.sum()) for part in scores.nll.split(counts)]


def paired_difference(first: DocumentNll, second: DocumentNll, *, resamples: int = 2000, seed: int = 0) -> Difference:
    """Mean nats per token of `first` minus `second` on the same targets, bootstrapped over documents.

    Raises:
        DataError: the two were not scored on the same targets.
    """
    if (first.documents, first.targets) != (second.documents, second.targets):
        raise DataError("the two arms were scored on different targets: use the same documents, lengths and variant")
    return paired_ratio_difference(first.nll, second.nll, first.tokens, resamples=resamples, seed=seed)
