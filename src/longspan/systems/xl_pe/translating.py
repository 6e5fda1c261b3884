"""A trained arm at work: sentences in, sentences out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from longspan.data.tokenizer import load_tokenizer
from longspan.errors import CheckpointError, DataError, MethodError
from longspan.models import torch_device
from longspan.systems.xl_pe.alignment import Words
from longspan.systems.xl_pe.corpus import PadRows, SubwordEncoder
from longspan.systems.xl_pe.model import XlPeModel
from longspan.systems.xl_pe.parser import Reorderer
from longspan.systems.xl_pe.saved import load_reorderer
from longspan.systems.xl_pe.training import read_arm

_ROOM = 10
"""Tokens that a translation may have beyond twice the source."""


@dataclass(frozen=True, slots=True)
class Translator:
    """A model, its sub-words, and what gives ranks to a sentence."""

    model: XlPeModel
    cutter: SubwordEncoder
    reorderer: Reorderer | None
    """None where the model reads no ranks, or ranks that are not made from the source alone."""

    @classmethod
    def load(cls, run: Path, device: str = "auto") -> Translator:
        """The arm saved in the folder `run`.

        Raises:
            CheckpointError: the folder holds no trained arm.
        """
        arm = read_arm(run)
        try:
            model = XlPeModel.from_pretrained(run, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(f"{run}: the model cannot be read ({reason}); train the arm again") from error
        reorderer = load_reorderer(run / "reorderer.safetensors") if arm.needs_reorderer() else None
        return cls(model.to(torch_device(device)).eval(), SubwordEncoder(load_tokenizer(run)), reorderer)

    def orders(self, sentences: Sequence[Words]) -> list[list[int]]:
        """Target order of each sentence by the reorderer; as they stand where the model reads no ranks.

        Raises:
            MethodError: the arm is a control, whose ranks are not made from the source alone.
        """
        if self.reorderer is not None:
            return [self.reorderer.order(words) for words in sentences]
        if self.model.config.reads_ranks():
            raise MethodError("this arm is a control: its ranks do not come from the source; translate by another arm")
        return [list(range(len(words))) for words in sentences]

    @torch.no_grad()
    def translate(
        self, sentences: Sequence[Words], orders: Sequence[Sequence[int]], *, beams: int = 4, batch: int = 64
    ) -> list[str]:
        """The translation of each sentence, whose ranks come from `orders`.

        Raises:
            DataError: a sentence is too long for the model.
        """
        rows = [self.cutter.source(words, order) for words, order in zip(sentences, orders, strict=True)]
        longest = self.model.config.max_position_embeddings
        for number, row in enumerate(rows, start=1):
            if len(row["input_ids"]) > longest:
                raise DataError(
                    f"sentence {number} has {len(row['input_ids'])} sub-words, and the model takes {longest}"
                )
        pad = PadRows(self.model.config.pad_token_id)
        found = [""] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda number: len(rows[number]["input_ids"]))
        for start in range(0, len(rows), batch):
            numbers = by_length[start : start + batch]
            inputs = {name: value.to(self.model.device) for name, value in pad([rows[n] for n in numbers]).items()}
            room = min(longest, 2 * inputs["input_ids"].shape[1] + _ROOM)
            output = self.model.generate(**inputs, num_beams=beams, max_length=room)
            for number, ids in zip(numbers, output, strict=True):
                found[number] = self.cutter.text(ids)
        return found
