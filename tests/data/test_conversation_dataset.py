"""Rows of conversations: what stands in them, what is learned, and that packed ones do not see each other."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from conftest import make_model
from longspan import surgery
from longspan.data.conversation_dataset import ConversationDataset, arrange, pack
from longspan.data.conversation_file import ConversationFile, prepare_conversations
from longspan.data.positions import IGNORED, Placer
from longspan.data.templates import with_template
from longspan.equation import Window
from longspan.errors import DataError
from longspan.registry import parse_methods


def talk(words: str, exchanges: int) -> dict[str, object]:
    pair = [{"role": "user", "content": "river 42"}, {"role": "assistant", "content": words}]
    return {"messages": pair * exchanges}


@pytest.fixture
def file(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> ConversationFile:
    """Nine conversations of one to three exchanges."""
    rows = [talk(" ".join(["stone"] * (1 + number)), 1 + number % 3) for number in range(9)]
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(rows))
    return prepare_conversations(path, with_template(tokenizer, None), tmp_path / "tokens", progress=False)


def test_a_plain_row_is_one_conversation_and_responses_alone_are_learned(
    file: ConversationFile, tokenizer: PreTrainedTokenizerFast
) -> None:
    dataset = ConversationDataset(arrange(file, 256, "none"), seed=0, size=9)
    texts = {tokenizer.decode(row["input_ids"]) for row in (dataset[index] for index in range(9))}
    assert texts == {tokenizer.decode(file.conversation(number)["id"]) for number in range(9)}
    row = next(
        row
        for row in (dataset[index] for index in range(9))
        if "stone stone stone" in tokenizer.decode(row["input_ids"])
    )
    learned = row["labels"][row["labels"] != IGNORED]
    words = tokenizer.decode(learned).split("</s>")
    assert set(words) == {words[0], ""}
    assert set(words[0].split()) == {"stone"}
    assert row["attention_mask"].all()
    assert (row["labels"][row["labels"] != IGNORED] == row["input_ids"][row["labels"] != IGNORED]).all()


def test_every_epoch_takes_each_conversation_once_in_an_order_of_its_own(file: ConversationFile) -> None:
    rows = arrange(file, 256, "none")
    first, second = (rows.order(7, epoch).tolist() for epoch in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(9))
    one, again = (ConversationDataset(rows, seed=7, size=27)[20]["input_ids"] for _ in range(2))
    assert torch.equal(one, again)
    assert rows.order(8, 0).tolist() != first


def test_a_long_conversation_is_cut_where_a_response_ends(
    file: ConversationFile, tokenizer: PreTrainedTokenizerFast
) -> None:
    length = len(file.conversation(5)) - 1
    rows = arrange(file, length, "none")
    kept = tokenizer.decode(file.conversation(5)["id"][: rows.kept[5]])
    assert kept.endswith("stone</s>\n")
    assert kept.count("Assistant:") == 2  # of three
    statistics = rows.statistics
    assert statistics["conversations_cut"] == sum(len(file.conversation(n)) > length for n in range(9))
    assert statistics["conversations_left_out"] == 0


def test_a_conversation_whose_first_exchange_is_too_long_is_left_out_and_counted(file: ConversationFile) -> None:
    shortest = min(len(file.conversation(number)) for number in range(9))
    rows = arrange(file, shortest, "none")
    assert rows.statistics["conversations_left_out"] + rows.statistics["conversations"] == 9
    assert rows.statistics["conversations_left_out"] > 0
    with pytest.raises(DataError, match="no conversation has a first exchange of at most 3 tokens"):
        arrange(file, 3, "packed")


def test_rows_are_packed_to_the_brim_longest_first() -> None:
    assert pack(np.array([2, 7, 0, 5, 3, 3, 10]), 10) == [[6], [1, 4], [3, 5, 0]]


def test_packed_rows_hold_every_conversation_once_and_positions_start_anew(file: ConversationFile) -> None:
    rows = arrange(file, 128, "packed")
    assert sorted(number for numbers in rows.bins for number in numbers) == list(range(9))
    assert len(rows) < 9
    for row in (ConversationDataset(rows, seed=0, size=len(rows))[index] for index in range(len(rows))):
        assert {len(values) for values in row.values()} == {128}
        starts = np.flatnonzero(row["position_ids"] == 0)
        assert (np.diff(row["position_ids"].numpy())[starts[1:] - 1] <= 0).all()
        assert (row["labels"][starts] == IGNORED).all()  # nobody learns to begin a conversation out of the one before
        assert "attention_mask" not in row


def test_tokens_seen_leave_padding_out(file: ConversationFile) -> None:
    for packing in ("none", "packed"):
        rows = arrange(file, 128, packing)
        dataset = ConversationDataset(rows, seed=3, size=3 * len(rows))
        counted = 0
        for index in range(len(dataset)):
            assert rows.tokens_before(index, 3) == counted
            numbers = rows.bins[rows.order(3, index // len(rows))[index % len(rows)]]
            counted += sum(len(file.conversation(number)) for number in numbers)
        assert counted == 3 * len(file.tokens)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("methods", ["", "coca+yarn", "alibi+rope", "dynamic_ntk"])
def test_packed_conversations_do_not_see_each_other(file: ConversationFile, attention: str, methods: str) -> None:
    """Each gets the logits that it gets alone, and another conversation in front of it moves none of them."""
    model = make_model("llama", vocab_size=600, attn_implementation=attention)
    if methods:
        surgery.extend(model, methods.replace("+rope", ""), target_length=256)
    rows = arrange(file, 128, "packed")
    dataset = ConversationDataset(rows, seed=0, size=len(rows))
    row = next(row for row in (dataset[i] for i in range(len(rows))) if (row["position_ids"] == 0).sum() > 2)
    starts = [*np.flatnonzero(row["position_ids"] == 0).tolist(), 128]

    def logits(ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(ids[None], position_ids=position_ids[None], use_cache=False).logits[0]

    together = logits(row["input_ids"], row["position_ids"])
    other = row["input_ids"].clone()
    other[: starts[1]] = (other[: starts[1]] + 1) % 500
    assert torch.equal(logits(other, row["position_ids"])[starts[1] :], together[starts[1] :])
    if methods == "dynamic_ntk":  # its frequencies follow the longest conversation of the row
        return
    for start, end in itertools.pairwise(starts):
        alone = logits(row["input_ids"][start:end], row["position_ids"][start:end])
        assert torch.allclose(together[start:end], alone, atol=2e-4)


@pytest.mark.parametrize("packing", ["none", "packed"])
def test_positions_of_a_method_act_within_each_conversation(file: ConversationFile, packing: str) -> None:
    """SkipAlign moves whole blocks: unit steps inside a block, rising between blocks, all below the target."""
    (method,) = parse_methods("skip_align(p_skip=1.0, strategy='all')")
    window = Window(rotary_dim=8, original_length=128, target_length=1024)
    rows = arrange(file, 128, packing)
    placer = Placer(position=method, window=window, seed=0, step_rows=1)
    dataset = ConversationDataset(rows, seed=0, size=2 * len(rows), placer=placer)
    moved = 0
    for index in range(len(rows)):
        row, numbers = dataset[index], rows.bins[rows.order(0, 0)[index]]
        end = 0
        for number in numbers:
            turns = file.conversation(number)["turn"].astype(int)
            positions = row["positions"][end : end + len(turns)].numpy()
            end += len(turns)
            steps = np.diff(positions)
            assert positions[0] == 0
            assert (steps[np.diff(turns) == 0] == 1).all()
            assert (steps >= 1).all()
            assert positions[-1] < 1024
            moved += int((steps > 1).sum())
        plain = ConversationDataset(rows, seed=0, size=len(rows))[index]
        assert torch.equal(row["input_ids"], plain["input_ids"])
        assert torch.equal(row["labels"], plain["labels"])
    assert moved > 0
