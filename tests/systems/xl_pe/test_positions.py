"""Ranks of sub-words, controls, and padding, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.data.tokenizer import train_tokenizer
from longspan.systems.xl_pe.corpus import PadRows, SubwordEncoder
from longspan.systems.xl_pe.positions import RankSource, control_orders, subword_ranks


def test_subwords_are_numbered_along_the_target_order_and_stay_together() -> None:
    assert subword_ranks([2, 0, 1], [2, 1, 3]) == [3, 4, 5, 0, 1, 2]
    assert subword_ranks([0, 1, 2], [2, 1, 3]) == list(range(6))
    assert subword_ranks([], []) == []


@given(st.permutations(range(5)), st.lists(st.integers(1, 4), min_size=5, max_size=5))
def test_ranks_of_subwords_are_a_permutation_with_whole_words(order: list[int], counts: list[int]) -> None:
    ranks = subword_ranks(order, counts)
    assert sorted(ranks) == list(range(sum(counts)))
    start = 0
    for count in counts:
        block = ranks[start : start + count]
        assert block == list(range(block[0], block[0] + count))
        start += count


ORDERS = [[1, 0, 2], [2, 1, 0], [0, 1], [0, 2, 1], [3, 2, 1, 0]]


@pytest.mark.parametrize("source", ["parser", "identity", "random", "other", "oracle"])
def test_every_control_gives_each_sentence_an_order_of_its_own_length(source: RankSource) -> None:
    given_orders = control_orders(ORDERS, source, seed=0)
    assert [sorted(order) for order in given_orders] == [sorted(order) for order in ORDERS]
    assert given_orders == control_orders(ORDERS, source, seed=0)


def test_controls_are_what_they_are_called() -> None:
    assert control_orders(ORDERS, "identity", 0) == [sorted(order) for order in ORDERS]
    assert control_orders(ORDERS, "oracle", 0) == ORDERS
    others = control_orders(ORDERS, "other", 0)
    of_three = [0, 1, 3]
    assert sorted(others[number] for number in of_three) == sorted(ORDERS[number] for number in of_three)
    assert all(others[number] != ORDERS[number] for number in of_three)
    assert others[4] == ORDERS[4]  # nobody else has four words


def test_padding_and_the_end_keep_their_own_places(tmp_path: Path) -> None:
    cutter = SubwordEncoder(train_tokenizer(["a b c a b c"], 262, tmp_path / "tokenizer"))
    pad = cutter.tokenizer.pad_token_id
    pairs = [((("c", "a", "b"), ("a", "b")), [1, 2, 0]), ((("b",), ("c", "a", "a")), [0])]
    rows = [cutter.pair(pair, order) for pair, order in pairs]
    pieces = [len(cutter.words((word,))[0]) for word in "cab"]
    length = sum(pieces) + 1
    for batch, where in ((PadRows(pad)(rows), 1), (PadRows(pad)(rows[::-1]), 0)):
        assert batch["xl_positions"].shape == batch["input_ids"].shape == (2, length)
        short, long = batch["xl_positions"][where], batch["xl_positions"][1 - where]
        assert torch.equal(short, torch.arange(length))
        assert long[-1] == length - 1
        assert long[:-1].tolist() == subword_ranks([1, 2, 0], pieces)
        assert torch.equal(batch["attention_mask"], (batch["input_ids"] != pad).long())
        labels, inputs = batch["labels"], batch["decoder_input_ids"]
        assert (inputs[:, 0] == pad).all()
        assert torch.equal(inputs[:, 1:], labels[:, :-1].masked_fill(labels[:, :-1] == -100, pad))


def test_a_sentence_is_spelled_back_from_its_subwords(tmp_path: Path) -> None:
    cutter = SubwordEncoder(train_tokenizer(["a b c a b c"], 300, tmp_path / "tokenizer"))
    row = cutter.pair((("x",), ("it", "'s", "é", "12", ".")), [0])
    assert cutter.text(row["labels"]) == "it 's é 12 ."
    assert cutter.text(torch.tensor(cutter.words(("a\nb",))[0])) == "a b"
