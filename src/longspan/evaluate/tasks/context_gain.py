"""What context is worth: the loss at the same places of a text, by how much of it was visible."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from longspan.errors import LengthError
from longspan.evaluate.task import Bench, Task

if TYPE_CHECKING:
    from longspan.evaluate.document_loss import DocumentNll
    from longspan.evaluate.windows import Protocol
    from longspan.records import Record


@dataclass(frozen=True, slots=True)
class ContextGain(Task):
    """What further context is worth: the loss at the same places of the user's text, by how much was visible.

    For each length W the same tokens (index at least W_max of a document) are scored by fresh windows of W tokens that
    move on by S, a quarter of the shortest length and at most 64: each token has seen W - 1 - S to W - 2 tokens of its
    document. `nll` is their loss; `gain` is how much lower it is than at the shortest length, paired by document: above
    0 context helps, below 0 it harms. --max-targets bounds the tokens of a document. Bootstrap over documents.
    """

    needs_text: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"text", "max_targets"})

    def _protocol(self, bench: Bench) -> Protocol:
        from longspan.evaluate.windows import make_protocol

        if len(bench.lengths) < 2:
            raise LengthError("context_gain compares what was visible: give at least two lengths")
        stride = max(1, min(min(bench.lengths) // 4, 64))
        return make_protocol(bench.lengths, stride, "matched", None, bench.options.get("max_targets"))

    def settings(self, bench: Bench, name: str) -> dict[str, Any]:
        from longspan.evaluate.windows import as_documents, long_enough

        protocol = self._protocol(bench)
        documents = long_enough(as_documents(bench.documents, bench.vocab_size), protocol.shortest_document)
        return {
            f"{name} documents": len(documents),
            f"{name} lengths": list(bench.lengths),
            "max_targets": protocol.max_targets or "all",
        }

    def measure(self, bench: Bench, name: str) -> list[Record]:
        from longspan.evaluate.document_loss import document_nll, document_scores
        from longspan.evaluate.journal import Journal

        protocol, shortest = self._protocol(bench), min(bench.lengths)
        journal = Journal(bench.model, name, **{"seed": None, **bench.columns})

        @functools.cache
        def sums(length: int) -> DocumentNll:
            return document_nll(
                bench.model,
                bench.documents,
                length=length,
                protocol=protocol,
                bos_id=bench.tokenizer.bos_token_id,
                batch_size=bench.batch_size,
                progress=bench.progress,
                processes=bench.processes,
            )

        def measure(length: int) -> list[Record]:
            if bench.on_scores is not None:
                bench.on_scores(document_scores(journal, sums(length), length))
            return _records(journal, sums(shortest), sums(length), length)

        for length in sorted(bench.lengths):
            journal.cell(("nll", "gain"), length, None, functools.partial(measure, length))
        return journal.records


def _records(journal: Any, shortest: DocumentNll, found: DocumentNll, length: int) -> list[Record]:
    from longspan.evaluate.document_loss import paired_difference
    from longspan.intervals import bootstrap

    shared: dict[str, Any] = {"length": length, "n": int(found.tokens.sum())}
    low, high = bootstrap(found.nll, found.tokens)
    gain = paired_difference(shortest, found)
    return [
        journal.record("nll", found.mean, low=low, high=high, **shared),
        journal.record("gain", gain.value, low=gain.low, high=gain.high, **shared),
    ]
