"""How well the reorderer orders sentences that it has not seen: cross-validation against word alignments."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from longspan.errors import DataError
from longspan.intervals import bootstrap
from longspan.records import Record
from longspan.systems.xl_pe.alignment import Alignment, Words, read_alignments, read_pairs
from longspan.systems.xl_pe.bracketing import is_parsable, valid_actions
from longspan.systems.xl_pe.features import FeatureSpace, columns, fingerprints
from longspan.systems.xl_pe.parser import BEAM, ITERATIONS, Example, train_reorderer
from longspan.systems.xl_pe.ranks import FREE, OrderScore, order_classes, score_order, span_ranks

LONGEST = 40
"""Words of the longest sentence to learn from."""


def learnable(alignments: Sequence[Alignment], longest: int = LONGEST) -> dict[int, np.ndarray]:
    """Order classes of the sentences to learn from, by their numbers.

    Those of 2 to `longest` words, some with a link, whose words can be compared and whose order BTG can make.
    """
    found = {}
    for number, alignment in enumerate(alignments):
        if 2 <= alignment.source_length <= longest:
            classes = order_classes(alignment)
            if classes is not None and (classes != FREE).any() and is_parsable(classes):
                found[number] = classes
    return found


def make_examples(
    sentences: Sequence[Words], classes: dict[int, np.ndarray]
) -> tuple[FeatureSpace, dict[int, Example]]:
    """The features that occur in sentences to learn from, and the sentences in them."""
    tables = {number: fingerprints(columns(sentences[number])) for number in classes}
    space = FeatureSpace.of(tables.values())
    examples = {number: Example(space.numbers(tables[number]), valid_actions(classes[number])) for number in classes}
    return space, examples


@dataclass(frozen=True, slots=True)
class Judged:
    """One sentence, ordered by a reorderer that has not seen it."""

    number: int
    learned: OrderScore
    monotone: OrderScore
    """The sentence as it stands."""
    learnable: bool
    """Whether it is of the kind that is learned from; scores are then by its classes, else by its spans."""


def cross_validate(
    sentences: Sequence[Words],
    alignments: Sequence[Alignment],
    *,
    folds: int = 5,
    iterations: int = ITERATIONS,
    beam: int = BEAM,
    seed: int = 0,
    on_fold: Callable[[int], None] | None = None,
) -> list[Judged]:
    """Every sentence judged once, in the order given; the folds are drawn by `seed`.

    Args:
        on_fold: called with the number of folds done.

    Raises:
        DataError: there are fewer sentences to learn from than folds.
    """
    classes = learnable(alignments)
    if not 2 <= folds <= len(classes):
        raise DataError(f"{folds} folds of {len(classes)} sentences to learn from: give at least 2 folds, more pairs")
    # features of held-out sentences are numbered as well, but nothing gives them a weight
    space, examples = make_examples(sentences, classes)
    drawn = np.random.default_rng(seed).permutation(len(sentences))
    judged = []
    for fold in range(folds):
        held_out = drawn[fold::folds].tolist()
        rest = [examples[number] for number in sorted(set(classes) - set(held_out))]
        reorderer, _ = train_reorderer(space, rest, iterations=iterations, beam=beam, seed=seed)
        for number in held_out:
            gold = classes.get(number, span_ranks(alignments[number]))
            learned = score_order(reorderer.order(sentences[number]), gold)
            monotone = score_order(range(len(gold)), gold)
            judged.append(Judged(number, learned, monotone, number in classes))
        if on_fold is not None:
            on_fold(fold + 1)
    return sorted(judged, key=lambda one: one.number)


def validate_files(
    pairs: Path,
    alignments: Path,
    *,
    first_index: Literal[0, 1] = 0,
    reverse: bool = False,
    seed: int = 0,
    **options: Any,
) -> list[Record]:
    """Cross-validation of the pairs in two files, as records with intervals of a bootstrap over sentences.

    Task `reordering` holds the sentences of the kind that is learned from, `reordering_all` all of them.

    Args:
        reverse: put target sentences into the order of the source.
        options: as `cross_validate` takes them.

    Raises:
        DataError: files that cannot be used, or too few sentences.
    """
    read = read_pairs(pairs)
    links = read_alignments(alignments, read, first_index=first_index)
    sentences = [pair[1 if reverse else 0] for pair in read]
    started = time.process_time()
    judged = cross_validate(sentences, [one.transposed() for one in links] if reverse else links, seed=seed, **options)
    run = f"{pairs.stem}-reverse" if reverse else pairs.stem
    shared: dict[str, Any] = {"run": run, "method": "xl-pe", "seed": seed}
    seconds = time.process_time() - started  # of the processor: others may be at work on it
    records = [Record(**shared, model="learned", task="reordering", metric="cpu_seconds", value=seconds)]
    for task, chosen in (("reordering", [one for one in judged if one.learnable]), ("reordering_all", judged)):
        for model in ("monotone", "learned"):
            for metric in fields(OrderScore):
                values = [float(getattr(getattr(one, model), metric.name)) for one in chosen]
                low, high = bootstrap(values)
                columns: dict[str, Any] = {"value": float(np.mean(values)), "low": low, "high": high, "n": len(values)}
                records.append(Record(**shared, model=model, task=task, metric=metric.name, **columns))
    return records
