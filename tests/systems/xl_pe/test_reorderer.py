"""The reorderer: its search against all derivations, its learning on orders that can be learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from longspan.errors import CheckpointError, DataError
from longspan.systems.xl_pe.alignment import Alignment
from longspan.systems.xl_pe.bracketing import is_parsable, valid_actions
from longspan.systems.xl_pe.features import PARENTS, FeatureSpace, columns, fingerprints
from longspan.systems.xl_pe.parser import Reorderer, train_reorderer
from longspan.systems.xl_pe.ranks import ranks_of
from longspan.systems.xl_pe.saved import load_reorderer, save_reorderer
from longspan.systems.xl_pe.search import Scores, action_scores, search
from longspan.systems.xl_pe.validation import cross_validate, learnable, make_examples

WORDS = ("the", "old", "ship", "came", "home", "from", "a", "far", "away", "sea")


def random_reorderer(words: tuple[str, ...], seed: int, beam: int = 20) -> Reorderer:
    space = FeatureSpace.of([fingerprints(columns(words))])
    weights = np.random.default_rng(seed).normal(size=(len(space), 2))
    weights[-1] = 0
    return Reorderer(space, weights, beam)


def scores_of(reorderer: Reorderer, words: tuple[str, ...]) -> Scores:
    return action_scores(reorderer.space.numbers(fingerprints(columns(words))), reorderer.weights, len(words))


def derivations(scores: Scores, b: int, e: int, parent: int) -> Iterator[tuple[float, list[tuple[int, ...]]]]:
    """Every derivation of a span with its score, straight from the definition."""
    if e - b == 1:
        yield 0.0, []
        return
    for p in range(b + 1, e):
        for d in (0, 1):
            own = scores.split[b, e, d, p] + scores.span[parent, b, e, d] + scores.at[parent, d, p]
            for left, first in derivations(scores, b, p, 1 + 2 * d):
                for right, second in derivations(scores, p, e, 2 + 2 * d):
                    yield own + left + right, [(b, p, e, d), *second, *first]


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_of_all_derivations(seed: int) -> None:
    words = WORDS[:5]
    scores = scores_of(random_reorderer(words, seed), words)
    best, actions = max(derivations(scores, 0, 5, 0), key=lambda found: found[0])
    found = search(scores, beam=10_000).best
    assert [tuple(row) for row in np.stack(found[:4], axis=1).tolist()] == actions
    steps = zip(*found, strict=True)
    total = sum(scores.split[b, e, d, p] + scores.span[c, b, e, d] + scores.at[c, d, p] for b, p, e, d, c in steps)
    assert np.isclose(total, best)


def test_an_action_has_six_features_of_the_tree_and_24_of_each_column() -> None:
    words = WORDS[:6]
    tables = fingerprints(columns(words))
    assert sum(len(table) for table in tables.values()) == 6 + 24 * len(columns(words))
    assert tables["parent", "b", "e"].shape[1:] == (PARENTS, 7, 7)
    assert tables["b", "p", "e"].shape[1:] == (6 * 35 // 6,)


def test_a_score_is_the_sum_of_the_weights_of_its_features() -> None:
    """With weight 1 for one feature alone: the word in front of the pivot is `ship`."""
    words = ("ship", "at", "sea", "ship", "home")
    others = ("boat", "at", "sea", "boat", "home")
    keys, there = fingerprints(columns(words))["p",].astype(np.uint64), fingerprints(columns(others))["p",]
    changed = [feature for feature in keys[:, 1] if feature not in there and feature in keys[:, 4]]
    assert changed  # what stands before pivots 1 and 4 and is not there with another word
    space = FeatureSpace(np.sort(np.array(changed[:1], dtype=np.uint64)))
    scores = scores_of(Reorderer(space, np.array([[0.0, 1.0], [0.0, 0.0]])), words)
    assert scores.at[0, 1].tolist() == [0, 1, 0, 0, 1, 0]
    assert not scores.at[:, 0].any()
    assert not scores.span.any()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_weights_the_output_is_an_order_that_btg_can_make(seed: int) -> None:
    order = random_reorderer(WORDS, seed).order(WORDS)
    assert sorted(order) == list(range(len(WORDS)))
    assert is_parsable(ranks_of(order))


def test_without_weights_a_constraint_is_never_left() -> None:
    classes = np.array([3, 2, 0, 1, -1, 5, 4])
    scores = scores_of(Reorderer.untrained(), WORDS[:7])
    found = search(scores, 20, valid_actions(classes)).valid
    assert found is not None
    valid = valid_actions(classes)
    assert all(valid[b, e, d, p] for b, p, e, d in zip(*found[:4], strict=True))


def inverted(count: int) -> tuple[list[tuple[str, ...]], list[Alignment]]:
    """Sentences whose words come in reverse."""
    rng = np.random.default_rng(0)
    sentences = [tuple(f"w{rng.integers(9)}" for _ in range(rng.integers(2, 6))) for _ in range(count)]
    return sentences, [
        Alignment(len(words), len(words), frozenset((place, len(words) - 1 - place) for place in range(len(words))))
        for words in sentences
    ]


def test_inverted_pairs_are_learned_without_an_error() -> None:
    sentences, alignments = inverted(12)
    space, examples = make_examples(sentences, learnable(alignments))
    reorderer, errors = train_reorderer(space, list(examples.values()))
    assert errors[-1] == 0
    assert len(errors) < 20  # it stops when all are right
    assert reorderer.order(("w1", "w2", "w3", "new")) == [3, 2, 1, 0]


def test_the_same_seed_gives_the_same_weights() -> None:
    sentences, alignments = inverted(6)
    space, examples = make_examples(sentences, learnable(alignments))
    first, second = (train_reorderer(space, list(examples.values()), seed=3)[0] for _ in range(2))
    assert np.array_equal(first.weights, second.weights)


def test_unseen_sentences_are_judged_once_each() -> None:
    sentences, alignments = inverted(10)
    judged = cross_validate(sentences, alignments, folds=3, iterations=2)
    assert [one.number for one in judged] == list(range(10))
    assert np.mean([one.learned.tau for one in judged]) > np.mean([one.monotone.tau for one in judged])
    with pytest.raises(DataError, match="11 folds of 10 sentences"):
        cross_validate(sentences, alignments, folds=11)


def test_sentences_that_cannot_be_ordered_are_not_learned_from() -> None:
    crossing = Alignment(4, 4, frozenset({(0, 1), (1, 3), (2, 0), (3, 2)}))
    torn = Alignment(2, 3, frozenset({(0, 0), (0, 2), (1, 1)}))
    single = Alignment(1, 1, frozenset({(0, 0)}))
    unlinked = Alignment(2, 2, frozenset())
    straight = Alignment(2, 2, frozenset({(0, 0), (1, 1)}))
    assert list(learnable([crossing, torn, single, unlinked, straight])) == [4]


def test_saving_keeps_every_order(tmp_path: Path) -> None:
    reorderer = random_reorderer(WORDS, 0, beam=7)
    path = tmp_path / "reorderer.safetensors"
    save_reorderer(reorderer, path)
    loaded = load_reorderer(path)
    assert loaded.beam == 7
    for start in range(8):
        assert loaded.order(WORDS[start:]) == reorderer.order(WORDS[start:])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="holds no reorderer"):
        load_reorderer(path)


def test_no_word_and_one_word_have_one_order() -> None:
    assert Reorderer.untrained().order(()) == []
    assert Reorderer.untrained().order(("ship",)) == [0]
    with pytest.raises(DataError, match="257 words is too long"):
        Reorderer.untrained().order(("ship",) * 257)
