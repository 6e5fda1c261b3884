"""Loss by position in the longest window, as a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from longspan.evaluate.task import Bench, Task

if TYPE_CHECKING:
    from longspan.records import Record


@dataclass(frozen=True, slots=True)
class Position(Task):
    """Loss by position inside one window of the longest length: shows where a method breaks, which an average hides.

    One forward a document, from its start; positions in buckets, two an octave inside the trained window and an eighth
    of it wide beyond. Depth is the middle of the bucket. Intervals are bootstraps over documents.
    """

    needs_text: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"text"})

    def settings(self, bench: Bench, name: str) -> dict[str, Any]:
        from longspan.evaluate.windows import as_documents, long_enough

        documents = as_documents(bench.documents, bench.vocab_size)
        return {"position documents": len(long_enough(documents, max(bench.lengths) - 1))}

    def measure(self, bench: Bench, name: str) -> list[Record]:
        from longspan.evaluate.position import position_curve

        return position_curve(
            bench.model,
            bench.documents,
            length=max(bench.lengths),
            bos_id=bench.tokenizer.bos_token_id,
            batch_size=bench.batch_size,
            progress=bench.progress,
            processes=bench.processes,
            **bench.columns,
        )
