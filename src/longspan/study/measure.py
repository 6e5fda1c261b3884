"""Measuring one trained arm, cell after cell; a finished cell is one file, whole or absent, and never made twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from longspan.data.passkey import LARGEST_KEY, SMALLEST_KEY, PasskeyTemplate
from longspan.data.tokenizer import tokenizer_hash
from longspan.data.tokens import TokenFile
from longspan.errors import DataError
from longspan.evaluate.document_loss import perplexity
from longspan.evaluate.position import position_curve
from longspan.evaluate.retrieval import passkey
from longspan.evaluate.token_bytes import token_byte_counts
from longspan.files import file_hash, value_hash, write_json
from longspan.lengths import format_length
from longspan.models import load_model, load_tokenizer
from longspan.records import Record
from longspan.scores import Score, parse_score
from longspan.study.cells import Cell
from longspan.study.config import StudyConfig
from longspan.study.inputs import perplexity_documents, perplexity_protocol, position_documents
from longspan.surgery import extend, is_extended


class Measurer:
    """A trained arm with the held-out text, ready to be measured."""

    def __init__(self, study: StudyConfig, arm: str, seed: int, checkpoint: Path, text: TokenFile, cells: Path) -> None:
        """Open the model in `checkpoint`; finished cells are files in the folder `cells`.

        Raises:
            CheckpointError: the model or its tokenizer cannot be read.
            DataError: the held-out text was written with another tokenizer than the model's.
        """
        run = study.run_config(arm, seed)
        self.study, self.arm, self.seed, self.text, self.folder = study, arm, seed, text, cells
        self.train_length = run.train_length
        self.model = load_model(str(checkpoint), device=run.device)
        self.tokenizer = load_tokenizer(str(checkpoint))
        if tokenizer_hash(self.tokenizer) != text.info["tokenizer_sha256"]:
            raise DataError(
                f"{checkpoint} has another tokenizer than the held-out tokens of the study: remove {checkpoint.parent}"
                " to train it again, or choose another place for the study"
            )
        self.token_bytes = token_byte_counts(self.tokenizer, self.model.get_input_embeddings().weight.shape[0])
        self.inputs = {
            "model": [file_hash(path) for path in sorted(checkpoint.glob("*.safetensors"))],
            "text": text.info["tokens_sha256"],
        }

    def settings(self) -> dict[str, Any]:
        """What the measuring rests on and no record says: kernel, number format, strides, how a passkey is read."""
        found: dict[str, Any] = {
            "attention": self.model.config._attn_implementation,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
        }
        lengths = self.study.lengths_by_task()
        if "perplexity" in lengths:
            protocol = perplexity_protocol(self.study)
            found["stride"] = {format_length(length): protocol.stride_at(length) for length in lengths["perplexity"]}
        if "passkey" in lengths:
            found["passkey_decoding"] = _decoding(self.tokenizer)
        return found

    def measure(self, cell: Cell) -> None:
        """Make the file of `cell`, unless it is there."""
        assert cell.is_measured
        key = self._key(cell)
        path = self._file(key)
        if path.exists():
            return
        scores: list[Score] = []
        with self._extended(cell):
            records = getattr(self, f"_{cell.task}")(cell, scores)
        labels: dict[str, Any] = {"run": self.study.name, "model": self.arm, "seed": self.seed}
        trained = self.train_length
        rows = [dataclasses.asdict(dataclasses.replace(row, **labels, train_length=trained)) for row in records]
        kept = [dataclasses.asdict(dataclasses.replace(score, **labels)) for score in scores]
        write_json(path, {"key": key, "records": rows, "scores": kept})

    def is_done(self, cell: Cell) -> bool:
        """Whether the numbers of `cell` are there."""
        return self._file(self._key(cell)).exists()

    def records(self, cell: Cell) -> list[Record]:
        """The numbers of `cell`, under its own extension even if they were measured under another."""
        rows = json.loads(self._file(self._key(cell)).read_text(encoding="utf-8"))["records"]
        method = self.study.methods_in_force(self.arm, cell.extension)
        return [Record(**{**row, "method": method}) for row in rows]

    def scores(self, cell: Cell) -> list[Score]:
        """What each document or prompt of `cell` scored; none in a file that was written without them."""
        rows = json.loads(self._file(self._key(cell)).read_text(encoding="utf-8")).get("scores", [])
        method = self.study.methods_in_force(self.arm, cell.extension)
        return [parse_score({**row, "method": method}) for row in rows]

    def _key(self, cell: Cell) -> dict[str, Any]:
        """Everything that decides the numbers of a cell."""
        group = getattr(self.study.evaluate, cell.task)
        settings = group.model_dump(mode="json")
        if cell.task == "perplexity":
            settings["matched_from"] = self.study.lengths[-1]
        if cell.task == "position":
            del settings["extensions"]
        if cell.task == "passkey":
            settings["trials"] = group.trials_at(cell.length)
            del settings["gate"], settings["max_length"]
        place = {"task": cell.task, "extension": cell.same_as, "length": cell.length}
        return {**self.inputs, **place, "train_length": self.train_length, "settings": settings}

    def _file(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{key['task']}-{format_length(key['length'])}-{value_hash(key)}.json"

    @contextlib.contextmanager
    def _extended(self, cell: Cell) -> Iterator[None]:
        """The model with the cell's extension, aimed at this length alone, and bit for bit as before afterwards."""
        if cell.extension == "none":
            yield
            return
        target_length = max(cell.length, self.train_length)
        lengths = {"original_length": self.train_length, "target_length": target_length}
        with extend(self.model, cell.extension, **lengths, again=is_extended(self.model)):
            yield

    def _perplexity(self, cell: Cell, scores: list[Score]) -> list[Record]:
        protocol = perplexity_protocol(self.study)
        return perplexity(
            self.model,
            perplexity_documents(self.study, self.text),
            lengths=[cell.length],
            stride=protocol.stride,
            variant=protocol.variant,
            matched_from=protocol.longest,
            max_targets=protocol.max_targets,
            token_bytes=self.token_bytes,
            progress=False,
            on_scores=scores.extend,
        )

    def _position(self, cell: Cell, scores: list[Score]) -> list[Record]:
        documents = position_documents(self.study, self.text)
        return position_curve(self.model, documents, length=cell.length, train_length=self.train_length, progress=False)

    def _passkey(self, cell: Cell, scores: list[Score]) -> list[Record]:
        settings = self.study.evaluate.passkey
        assert settings is not None
        return passkey(
            self.model,
            self.tokenizer,
            lengths=[cell.length],
            depths=settings.depths,
            trials=settings.trials_at(cell.length),
            seed=settings.seed,
            filler="template" if settings.filler == "template" else cast(Sequence[int], self.text.tokens),
            progress=False,
            on_scores=scores.extend,
        )


def _decoding(tokenizer: PreTrainedTokenizerBase) -> str:
    """What decoding `auto` of the passkey comes to: `forced` where every digit of a key is a token of its own."""
    template = PasskeyTemplate(tokenizer)
    for key in (SMALLEST_KEY, 12345, 67890, LARGEST_KEY):
        pieces = [tokenizer.decode([token]).strip() for token in template.question(key)[1]]
        if [piece for piece in pieces if piece] != list(str(key)):
            return "generate"
    return "forced"
