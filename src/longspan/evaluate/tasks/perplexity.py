"""Perplexity by window length, as a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from longspan.evaluate.task import Bench, Task

if TYPE_CHECKING:
    from longspan.records import Record


@dataclass(frozen=True, slots=True)
class Perplexity(Task):
    """Perplexity, loss and bits per byte of the user's text by window length, token-weighted.

    Every window is [BOS] and W - 1 tokens, a fresh forward; windows start every S tokens (--stride), and a token is
    scored once, in the first window that holds it. `--variant matched` scores the same tokens at every length.
    Intervals are bootstraps over documents.
    """

    needs_text: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"text", "stride", "variant", "max_targets"})

    def settings(self, bench: Bench, name: str) -> dict[str, Any]:
        from longspan.evaluate.windows import as_documents, long_enough, make_protocol

        stride, variant, longest, most = (bench.options.get(key) for key in _OPTIONS)
        variant = variant or "matched"
        longest = longest or max(bench.lengths)
        windows = make_protocol(bench.lengths, stride, variant, longest, most)
        documents = as_documents(bench.documents, bench.vocab_size)
        return {
            "variant": variant,
            "longest": longest,
            "perplexity documents": len(long_enough(documents, windows.shortest_document)),
            "max_targets": most or "all",
            "stride": stride or "a quarter of the window, at most 512",
            **{f"stride at {length}": windows.stride_at(length) for length in bench.lengths},
        }

    def measure(self, bench: Bench, name: str) -> list[Record]:
        from longspan.evaluate.document_loss import perplexity
        from longspan.evaluate.token_bytes import token_byte_counts

        stride, variant, longest, most = (bench.options.get(key) for key in _OPTIONS)
        return perplexity(
            bench.model,
            bench.documents,
            lengths=bench.lengths,
            stride=stride,
            variant=variant or "matched",
            matched_from=longest,
            max_targets=most,
            token_bytes=token_byte_counts(bench.tokenizer, bench.vocab_size),
            bos_id=bench.tokenizer.bos_token_id,
            batch_size=bench.batch_size,
            progress=bench.progress,
            processes=bench.processes,
            on_scores=bench.on_scores,
            **bench.columns,
        )


_OPTIONS = ("stride", "variant", "matched_from", "max_targets")
