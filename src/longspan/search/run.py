"""Judge candidates on a model: each is put into it, reads the documents at the target length, and is taken out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from longspan import surgery
from longspan.errors import CheckpointError, DataError, LengthError
from longspan.evaluate import document_nll, make_protocol
from longspan.evaluate.forward import resolve_bos
from longspan.evaluate.windows import as_documents, long_enough
from longspan.lengths import format_length, parse_length
from longspan.methods.frequency.long_rope import LongRope
from longspan.search.evolution import Individual, SearchSettings, evolve
from longspan.search.factors import START_TOKENS, Candidate, Space


@dataclass(frozen=True, slots=True)
class FoundFactors:
    """What a search has found."""

    best: Individual
    starts: dict[str, Individual]
    """PI, NTK and YaRN, measured in the same way: with LongRoPE's temperature."""
    individuals: int
    """How many were measured, those known from before included."""
    forward_passes: int

    @property
    def perplexities(self) -> dict[str, float]:
        """By name: those of the starts, and the best as `found`."""
        return {name: individual.perplexity for name, individual in {**self.starts, "found": self.best}.items()}

    @property
    def method(self) -> LongRope:
        """The method to extend the model with."""
        return LongRope(long_factor=self.best.candidate.factors, start_tokens=self.best.candidate.start_tokens)


class FactorSearch:
    """A search on one model: made and checked first, then run; the model is left as it was."""

    def __init__(
        self,
        model: PreTrainedModel,
        ids: Tensor | Sequence[Tensor],
        *,
        target_length: int | str,
        original_length: int | str | None = None,
        settings: SearchSettings | None = None,
        bos_id: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Arguments and errors as `search_factors`."""
        self.model = model
        self.length = parse_length(target_length)
        self.original_length = original_length
        self.settings = settings or SearchSettings()
        self.space = self._space()
        self.bos_id = resolve_bos(model, bos_id)
        self.batch_size = batch_size
        self.protocol = make_protocol([self.length], 1, "all", None, self.length - 1)
        documents = as_documents(ids, model.get_input_embeddings().weight.shape[0])
        self.documents = [documents[number] for number in long_enough(documents, self.protocol.shortest_document)]
        self.limit = self.settings.limit(len(self.documents), len(self.space.starts()))

    def _space(self) -> Space:
        plan = surgery.plan(self.model, [LongRope()], target_length=self.length, original_length=self.original_length)
        if plan.window.factor == 1:
            original = format_length(self.length)
            raise LengthError(f"there is nothing to search at the original length, {original}: give a longer target")
        window = replace(plan.window, rotary_dim=plan.slots.rotary_dim(plan.window.rotary_dim))
        return Space(window, START_TOKENS if self.settings.start_tokens else (0,))

    def run(
        self,
        *,
        done: Mapping[Candidate, float] | None = None,
        on_individual: Callable[[Individual], Any] | None = None,
        progress: bool = True,
    ) -> FoundFactors:
        """Measure until the rounds or the budget are spent; arguments and errors as `search_factors`."""
        known = done or {}
        with _Bar(self.limit, len(self.documents), self.length, shown=progress) as bar:

            def measure(candidate: Candidate, origin: str, number: int) -> Individual:
                fresh = candidate not in known
                nll = self.nll(candidate) if fresh else known[candidate]
                individual = Individual(candidate, nll, origin, number)
                if fresh and on_individual is not None:
                    on_individual(individual)
                bar.update(individual, fresh=fresh)
                return individual

            ranked = evolve(self.space, measure, self.settings, self.limit)
        if math.isinf(ranked[0].nll):
            where = format_length(self.length)
            raise CheckpointError(f"the model gives no finite number at {where} tokens, whatever the factors")
        found = {individual.candidate: individual for individual in ranked}
        starts = {name: found[candidate] for name, candidate in self.space.starts().items()}
        return FoundFactors(ranked[0], starts, len(ranked), len(ranked) * len(self.documents))

    def nll(self, candidate: Candidate) -> float:
        """Mean nats per token of the documents at the target length; infinite where that is no number."""
        # the long set is in force at the target length anyway; said so, keys are turned once, as they come
        method = LongRope(long_factor=candidate.factors, start_tokens=candidate.start_tokens, static_for="target")
        with surgery.extend(self.model, [method], target_length=self.length, original_length=self.original_length):
            sums = document_nll(
                self.model,
                self.documents,
                length=self.length,
                protocol=self.protocol,
                bos_id=self.bos_id,
                batch_size=self.batch_size,
                progress=False,
            )
        return sums.mean if math.isfinite(sums.mean) else math.inf


def search_factors(
    model: PreTrainedModel,
    ids: Tensor | Sequence[Tensor],
    *,
    target_length: int | str,
    original_length: int | str | None = None,
    settings: SearchSettings | None = None,
    bos_id: int | None = None,
    batch_size: int | None = None,
    done: Mapping[Candidate, float] | None = None,
    on_individual: Callable[[Individual], Any] | None = None,
    progress: bool = True,
) -> FoundFactors:
    """Search the factors of LongRoPE with which `model` reads documents of `target_length` tokens best.

    The model is left as it was; `extend` it with the method found. One individual takes one forward pass a document:
    a window of `target_length` tokens, all of which are scored.

    Args:
        ids: one document, LongTensor [tokens], or a list of them, without BOS: each of at least target_length + 1
            tokens, the first target_length - 1 of which are read.
        original_length: tokens the model was trained on; read from the config if not given.
        bos_id: token that starts each window; default the config's.
        batch_size: documents in one forward; default by a token budget.
        done: mean negative log-likelihoods known from before; with them, a search that was stopped goes on.
        on_individual: called with each individual that was measured now, to keep it.

    Raises:
        LengthError: the target is not longer than the original length.
        DataError: no document is long enough.
        ConfigError: the budget does not reach the starts.
        MethodError, FamilyError: the model cannot take the method.
        CheckpointError: no individual gives a finite number.
    """
    search = FactorSearch(
        model,
        ids,
        target_length=target_length,
        original_length=original_length,
        settings=settings,
        bos_id=bos_id,
        batch_size=batch_size,
    )
    return search.run(done=done, on_individual=on_individual, progress=progress)


def pieces(documents: Iterable[Tensor], length: int, count: int | None) -> list[Tensor]:
    """Stretches of `length` tokens: the first of each document, in order, then the second of each, and so on.

    Args:
        count: how many; None takes up to 5, the paper's number.

    Raises:
        DataError: the documents do not hold so many, or none at all.
    """
    wanted = count or 5
    kept: list[Tensor] = []
    longest = 0
    for document in documents:
        longest = max(longest, len(document))
        if len(document) >= length:
            kept.append(document)
        if len(kept) == wanted:
            break
    found = [
        document[start : start + length]
        for start in range(0, longest, length)
        for document in kept
        if start + length <= len(document)
    ]
    if not found:
        raise DataError(
            f"no document is long enough: the longest has {longest} tokens and {length} are needed; "
            "give longer text or a shorter target"
        )
    if count is not None and len(found) < count:
        raise DataError(f"the text holds {len(found)} pieces of {length} tokens, not {count}: give more text")
    return found[:wanted]


class _Bar:
    """Forward passes done, and the best perplexity so far."""

    def __init__(self, individuals: int, documents: int, length: int, *, shown: bool) -> None:
        self._documents = documents
        self._best = math.inf
        self._bar = tqdm(
            total=individuals * documents,
            desc=f"search {format_length(length)}",
            unit="forward",
            mininterval=0.2 if sys.stderr.isatty() else 30,
            disable=not shown,
        )

    def update(self, individual: Individual, *, fresh: bool) -> None:
        if self._bar.disable:
            return
        if individual.nll < self._best:
            self._best = individual.nll
            self._bar.set_postfix_str(f"best perplexity {individual.perplexity:.4g} ({individual.origin})")
        if not fresh:  # found from an earlier call: not part of the speed
            self._bar.initial += self._documents
        self._bar.update(self._documents)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
