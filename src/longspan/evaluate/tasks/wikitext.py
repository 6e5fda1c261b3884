"""WikiText: perplexity of its articles, a short-context check."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from longspan.evaluate.external.reading import find_file
from longspan.evaluate.task import Bench, Task

if TYPE_CHECKING:
    from torch import Tensor

    from longspan.records import Record

_TITLE = re.compile(r"^ = [^=].*[^=] = *$", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class WikiText(Task):
    """Perplexity of WikiText's articles by window length, every token scored.

    Reads `wiki.test.raw`, or `wiki.valid.raw` as `wikitext_valid`, which are cut at the titles of articles. Windows as
    in `perplexity` with `--variant all`; articles shorter than the longest window are left out, and counted. Tokens are
    the model's, and the text is as it is in the file, blanks around punctuation included.
    Source: WikiText (Merity et al. 2016).
    """

    part: str = "test"

    reads: ClassVar[frozenset[str]] = frozenset({"data", "stride", "max_targets"})
    needs_data: ClassVar[bool] = True

    def settings(self, bench: Bench, name: str) -> dict[str, Any]:
        from longspan.evaluate.windows import as_documents, long_enough, make_protocol
        from longspan.files import file_hash

        windows = make_protocol(bench.lengths, bench.options.get("stride"), "all", None, None)
        documents = as_documents(self._articles(bench, name), bench.vocab_size)
        kept = long_enough(documents, windows.shortest_document)
        return {
            f"{name} file": file_hash(self._path(bench, name))[:12],
            f"{name} articles": f"{len(kept)} of {len(documents)}",
            **{f"stride at {length}": windows.stride_at(length) for length in bench.lengths},
        }

    def measure(self, bench: Bench, name: str) -> list[Record]:
        from longspan.evaluate.document_loss import perplexity
        from longspan.evaluate.token_bytes import token_byte_counts

        return perplexity(
            bench.model,
            self._articles(bench, name),
            task=name,
            lengths=bench.lengths,
            stride=bench.options.get("stride"),
            variant="all",
            max_targets=bench.options.get("max_targets"),
            token_bytes=token_byte_counts(bench.tokenizer, bench.vocab_size),
            bos_id=bench.tokenizer.bos_token_id,
            batch_size=bench.batch_size,
            progress=bench.progress,
            **bench.columns,
        )

    def _path(self, bench: Bench, name: str) -> Any:
        return find_file(bench.options.get("data"), f"wiki.{self.part}.raw", name)

    def _articles(self, bench: Bench, name: str) -> list[Tensor]:
        import torch

        from longspan.data.tokenizer import encode

        text = self._path(bench, name).read_text(encoding="utf-8", errors="replace")
        starts = [0, *(match.start() for match in _TITLE.finditer(text)), len(text)]
        articles = [text[start:end] for start, end in itertools.pairwise(starts)]
        return [torch.tensor(encode(bench.tokenizer, article)) for article in articles if article.strip()]


PRESETS = {"wikitext_valid": WikiText("valid")}
GROUPS = {"short": ("wikitext",)}
