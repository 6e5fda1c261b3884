"""llama.cpp's own library, for tests to compare with.

llama-cpp-python is built from source by `pip install longspan[gguf-test]`, which takes minutes; without it the tests
that import this are skipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from longspan.export import export

pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'longspan[gguf]'")
llama_cpp = pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed: pip install 'longspan[gguf-test]'"
)


LONGEST = 320


class Client:
    """llama.cpp with one file, computing in float32."""

    def __init__(self, path: Path) -> None:
        self._model = llama_cpp.Llama(
            str(path),
            n_ctx=LONGEST,
            n_threads=1,
            n_threads_batch=1,
            logits_all=True,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            flash_attn=False,
            verbose=False,
        )

    def tokens(self, text: str) -> list[int]:
        return self._model.tokenize(text.encode(), special=False)

    def logits(self, ids: list[int]) -> np.ndarray:
        self._model.reset()
        self._model.eval(ids)
        return self._model.scores[: len(ids)].copy()

    def greedy(self, ids: list[int], count: int) -> list[int]:
        self._model.reset()
        found: list[int] = []
        self._model.eval(ids)
        for _ in range(count):
            found.append(int(self._model.scores[self._model.n_tokens - 1].argmax()))
            self._model.eval(found[-1:])
        return found


def serve(place: Path, **options: object) -> Client:
    """llama.cpp with the file of the model at `place`/source, which is written to `place`/model.gguf."""
    export(place / "source", place / "model.gguf", to="gguf", **options)
    return Client(place / "model.gguf")
