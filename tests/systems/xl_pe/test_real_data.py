"""Sentences aligned by hand: counts and do-nothing scores that google/topdown-btg-preordering gives, to the last digit.

The numbers were made by that program's own constraint and its evaluate_preordering.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from longspan.systems.xl_pe.alignment import read_alignments, read_pairs
from longspan.systems.xl_pe.bracketing import is_parsable
from longspan.systems.xl_pe.ranks import order_classes, score_order
from longspan.systems.xl_pe.validation import learnable


@pytest.mark.parametrize(
    ("name", "transposed", "orderable", "parsable", "short", "tau", "fuzzy"),
    [
        ("jaen", False, 514, 485, 408, 0.718, 0.610),
        ("jaen", True, 511, 484, 406, 0.711, 0.505),
        ("zhen", False, 411, 390, 343, 0.860, 0.584),
        ("zhen", True, 363, 347, 260, 0.855, 0.642),
    ],
)
def test_constraints_and_scores_are_those_of_the_public_program(
    data_dir: Callable[[str], Path],
    name: str,
    transposed: bool,
    orderable: int,
    parsable: int,
    short: int,
    tau: float,
    fuzzy: float,
) -> None:
    folder = data_dir("parallel") / "awesome_align_examples"
    pairs = read_pairs(folder / f"{name}.src-tgt")
    alignments = read_alignments(folder / f"{name}.gold", pairs, first_index=1)
    if transposed:
        alignments = [alignment.transposed() for alignment in alignments]
    classes = [found for alignment in alignments if (found := order_classes(alignment)) is not None]
    assert len(classes) == orderable
    assert sum(is_parsable(found) for found in classes) == parsable
    kept = learnable(alignments)
    assert len(kept) == short
    scores = [score_order(range(len(gold)), gold) for gold in kept.values()]
    assert np.mean([score.tau for score in scores]) == pytest.approx(tau, abs=5e-4)
    assert np.mean([score.fuzzy_reordering for score in scores]) == pytest.approx(fuzzy, abs=5e-4)
