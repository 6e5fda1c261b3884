"""The training mixture: plain text, planted passkeys, and repeated random strings, sample by sample.

Sample number i depends on (seed, i) and nothing else, so a run that is resumed, or read by several workers, sees the
same data. No planted distance is longer than the window, unless a `Placer` moves its tokens apart: it acts on every
kind, but chooses tokens of its own in text alone. Labels are the inputs: every token of a window is learned.
"""

from __future__ import annotations

import logging
from typing import Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from longspan.data.passkey import LARGEST_KEY, Filler, PasskeyTemplate, random_key
from longspan.data.positions import Placer, placed_row
from longspan.data.tokens import TokenFile
from longspan.errors import DataError, LengthError, MethodError

logger = logging.getLogger(__name__)


class Mixture(BaseModel):
    """Shares of the samples by kind, and what the planted ones look like; shares add up to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: float = Field(1.0, ge=0, le=1)
    """Windows of ordinary text."""
    passkey: float = Field(0.0, ge=0, le=1)
    """Windows with planted keys and questions about them."""
    repeat: float = Field(0.0, ge=0, le=1)
    """A random string of tokens, repeated until the window is full."""
    template_filler: float = Field(0.5, ge=0, le=1)
    """Share of the passkey windows filled with the public template's sentences; the others with ordinary text."""
    most_keys: int = Field(1, ge=1)
    """A passkey window holds 1 to this many keys, each with its question before the next key (as many as fit)."""
    shortest_period: int = Field(4, ge=1)
    """Shortest random string, in tokens."""
    longest_period: int = Field(60, ge=1)
    """Longest random string, in tokens."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = self.text + self.passkey + self.repeat
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares text, passkey and repeat add up to {total:g}: they must add up to 1")
        if self.shortest_period > self.longest_period:
            raise ValueError("shortest_period is above longest_period: exchange them")
        needed_by = {
            "passkey": ("template_filler", "most_keys"),
            "repeat": ("shortest_period", "longest_period"),
        }
        for share, settings in needed_by.items():
            for setting in settings:
                if setting in self.model_fields_set and getattr(self, share) == 0:
                    raise ValueError(f"{setting} has no effect while {share} is 0: leave it out or raise {share}")
        return self


class MixtureDataset(Dataset[dict[str, Tensor]]):
    """Windows of `length` tokens drawn by a `Mixture`; map-style, `{"input_ids": [length], "labels": [length]}`.

    With a placer, `positions` [length] too, and a window of a document that is shorter ends in padding.
    """

    def __init__(
        self,
        tokens: TokenFile,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        mixture: Mixture,
        seed: int,
        size: int,
        placer: Placer | None = None,
    ) -> None:
        """`size` windows of `length` tokens (BOS counted) from `tokens`.

        Raises:
            DataError: all of the text is shorter than one window.
            LengthError: the window is too short for a passkey or for the shortest random string.
            MethodError: the placer's method needs conversations.
        """
        self.tokens, self.tokenizer, self.length = tokens, tokenizer, length
        self.mixture, self.seed, self.size, self.placer = mixture, seed, size, placer
        self.bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        ends = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self._padding = next(token for token in ends if token is not None)
        if len(tokens) < length:
            raise DataError(
                f"the text has {len(tokens)} tokens, less than one window of {length}: "
                "give more text or a shorter train_length"
            )
        if mixture.passkey:
            self._template = PasskeyTemplate(tokenizer)
            self._check_room_for_passkey()
        if mixture.repeat:
            self._ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
            if 2 * mixture.shortest_period > length:
                raise LengthError(
                    f"a window of {length} tokens cannot repeat a string of {mixture.shortest_period}: "
                    "lower shortest_period or raise the length"
                )
        if placer is not None:
            self._check_documents(placer)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, index]))
        kind = rng.random()
        if kind < self.mixture.passkey:
            ids = self._passkey(rng)
        elif kind < self.mixture.passkey + self.mixture.repeat:
            ids = self._repeat(rng)
        elif self.placer is not None and self.placer.chooses(self.length):
            return self._chosen(rng, self.placer, index)
        else:
            ids = [*self.bos, *self._text(rng, self.length - len(self.bos))]
        assert len(ids) == self.length
        input_ids = torch.tensor(ids, dtype=torch.long)
        if self.placer is not None:
            return placed_row(input_ids, self.placer.draw(self.length, index))
        return {"input_ids": input_ids, "labels": input_ids.clone()}

    def _text(self, rng: np.random.Generator, count: int) -> list[int]:
        start = int(rng.integers(len(self.tokens) - count + 1))
        return self.tokens.tokens[start : start + count].tolist()

    def _chosen(self, rng: np.random.Generator, placer: Placer, index: int) -> dict[str, Tensor]:
        """A window of tokens chosen from one document, which starts where a plain window would start."""
        start = int(rng.integers(len(self.tokens) - (self.length - len(self.bos)) + 1))
        source = np.concatenate((self.bos, self._stretch(start, placer.reach(self.length)))).astype(np.int64)
        draw = placer.draw(min(self.length, len(source)), index, document=len(source))
        input_ids = torch.full((self.length,), self._padding)
        input_ids[: len(draw.tokens)] = torch.from_numpy(source[draw.tokens])
        return placed_row(input_ids, draw)

    def _stretch(self, start: int, reach: int | None) -> np.ndarray:
        """Tokens from `start` on that with BOS are at most `reach`, all of one document; None takes all of it."""
        document = int(np.searchsorted(self.tokens.offsets, start, side="right")) - 1
        first, last = self.tokens.offsets[document : document + 2]
        if reach is not None:
            first = max(first, min(start, last - (self.length - len(self.bos))))
            last = min(last, first + reach - len(self.bos))
        return self.tokens.tokens[first:last]

    def _check_documents(self, placer: Placer) -> None:
        method = type(placer.position).__name__
        if placer.position.needs_turns:
            raise MethodError(f"{method} skips between turns, and this text has none: train it on conversations")
        documents = np.diff(self.tokens.offsets) + len(self.bos)
        target = placer.window.target_length
        end = placer.position.ends_at(self.length, placer.window, int(documents.max()))
        if self.length < target and end < target:
            logger.warning(
                "%s does not reach the target of %d tokens: positions end at %d, and nothing beyond is trained; take "
                "more chunks, longer documents or other content, unless that is what you want to compare with",
                method,
                target,
                end,
            )
        short = int((documents < self.length).sum())
        if short and self.mixture.text and placer.chooses(self.length):
            logger.warning(
                "%d of %d documents are shorter than the window of %d tokens: their windows end in padding",
                short,
                len(self.tokens.names),
                self.length,
            )

    def _repeat(self, rng: np.random.Generator) -> list[int]:
        longest = min(self.mixture.longest_period, self.length // 2)
        period = int(rng.integers(self.mixture.shortest_period, longest + 1))
        string = rng.choice(self._ordinary, size=period)
        return [*self.bos, *np.resize(string, self.length - len(self.bos)).tolist()]

    def _check_room_for_passkey(self) -> None:
        shortest = self._template.shortest(self._template.head, LARGEST_KEY)
        if shortest > self.length:
            raise LengthError(
                f"a passkey prompt takes at least {shortest} tokens with this tokenizer, more than the window of "
                f"{self.length}: raise train_length or set passkey to 0"
            )

    def _passkey(self, rng: np.random.Generator) -> list[int]:
        """Keys one after another, each asked for before the next; the spare room is shared out at random."""
        template = self._template
        spare = self.length
        tasks: list[tuple[list[int], int, int]] = []
        for _ in range(int(rng.integers(1, self.mixture.most_keys + 1))):
            head, key = (template.newline if tasks else template.head), random_key(rng)
            shortest = template.shortest(head, key)
            if tasks and shortest > spare:
                break
            tasks.append((head, key, shortest))
            spare -= shortest
        parts = rng.multinomial(spare, rng.dirichlet(np.ones(len(tasks))))
        from_template = rng.random() < self.mixture.template_filler
        ids: list[int] = []
        for (head, key, shortest), part in zip(tasks, parts.tolist(), strict=True):
            filler: Filler = "template" if from_template else self._text(rng, part)
            sample = template.task(head, shortest + part, rng.random(), key, filler)
            ids += sample.prompt_ids + sample.answer_ids
        return ids
