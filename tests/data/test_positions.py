"""Positions of training windows: drawn by index, chosen within one document, the same text for every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from data.conftest import prose
from longspan.data.mixture import Mixture, MixtureDataset
from longspan.data.positions import Placer, placed_row
from longspan.data.tokens import TokenFile, prepare_tokens
from longspan.equation import Draw, Position, Window
from longspan.errors import LengthError, MethodError
from longspan.registry import parse_methods

Make = Callable[..., MixtureDataset]

LENGTH, TARGET = 64, 512


@pytest.fixture
def make(token_file: TokenFile, tokenizer: PreTrainedTokenizerFast) -> Make:
    def make(
        method: str | None,
        mixture: Mixture | None = None,
        *,
        seed: int = 0,
        step_rows: int = 4,
        length: int = LENGTH,
        tokens: TokenFile = token_file,
    ) -> MixtureDataset:
        placer = None
        if method is not None:
            (position,) = parse_methods(method)
            assert isinstance(position, Position)
            window = Window(rotary_dim=8, original_length=LENGTH, target_length=TARGET)
            placer = Placer(position=position, window=window, seed=seed, step_rows=step_rows)
        return MixtureDataset(tokens, tokenizer, length, mixture or Mixture(), seed, 400, placer)

    return make


def rows(dataset: MixtureDataset, count: int = 100) -> list[dict[str, torch.Tensor]]:
    return [dataset[index] for index in range(count)]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_placed_window_depends_on_seed_and_index_only(make: Make) -> None:
    forwards, backwards = make("pose"), make("pose")
    found = [forwards[index] for index in range(20)]
    assert all(same(backwards[index], found[index]) for index in reversed(range(20)))
    assert not all(same(make("pose", seed=1)[index], found[index]) for index in range(20))
    assert len({tuple(row["positions"].tolist()) for row in found}) > 15


@pytest.mark.parametrize("method", ["pose(chunks=1)", "pose(content='contiguous')", "random_positions", "crd_ntk"])
def test_methods_that_only_move_tokens_see_the_text_of_a_plain_run(make: Make, method: str) -> None:
    mixture = Mixture(text=0.6, repeat=0.4)
    for plain, placed in zip(rows(make(None, mixture)), rows(make(method, mixture)), strict=True):
        assert same(plain, {key: placed[key] for key in plain})
        assert placed["positions"].shape == (LENGTH,)


def test_one_chunk_stands_where_a_plain_window_stands(make: Make) -> None:
    assert all(torch.equal(row["positions"], torch.arange(LENGTH)) for row in rows(make("pose(chunks=1)")))


def test_chunks_of_text_come_from_one_document_in_its_order(make: Make, token_file: TokenFile) -> None:
    bos = make("pose").bos
    texts = [
        "," + ",".join(map(str, token_file.tokens[first:last].tolist())) + ","
        for first, last in zip(token_file.offsets, token_file.offsets[1:], strict=False)
    ]
    jumped = 0
    for row in rows(make("pose(chunks=3, mask_seam=True)")):
        ids, seams = row["input_ids"].tolist(), (row["labels"] == -100).nonzero().flatten().tolist()
        assert ids[: len(bos)] == bos
        assert set((row["positions"].diff() != 1).nonzero().flatten().add(1).tolist()) <= set(seams)
        parts = [ids[a:b] for a, b in zip([len(bos), *seams], [*seams, LENGTH], strict=True)]
        spelled = ["," + ",".join(map(str, part)) + "," for part in parts if part]
        assert any(all(part in text for part in spelled) for text in texts)
        jumped += len(seams) > 0
    assert jumped > 90


def test_true_content_stands_in_its_document_where_it_stands_in_the_window(make: Make, token_file: TokenFile) -> None:
    (position,) = parse_methods("pose(content='true', source='document')")
    assert isinstance(position, Position)
    found = make("pose(content='true', source='document')")
    for row in rows(found, 20):
        starts = [
            [*found.bos, *token_file.tokens[first:last].tolist()]
            for first, last in zip(token_file.offsets, token_file.offsets[1:], strict=False)
        ]
        places = row["positions"].tolist()
        assert any([text[place] for place in places] == row["input_ids"].tolist() for text in starts)


def test_the_positions_cut_a_planted_passkey_and_leave_its_tokens(
    make: Make, tokenizer: PreTrainedTokenizerFast
) -> None:
    mixture = Mixture(text=0, passkey=1)
    far = 0
    for plain, placed in zip(
        rows(make(None, mixture, length=200), 50), rows(make("pose", mixture, length=200), 50), strict=True
    ):
        assert torch.equal(plain["input_ids"], placed["input_ids"])
        far = max(far, int(placed["positions"][-1]))
        assert "What is the pass key" in tokenizer.decode(placed["input_ids"])
    assert 200 < far < TARGET


@pytest.mark.parametrize(
    ("method", "shared"), [("crd_ntk", True), ("random_positions(per='batch')", True), ("random_positions", False)]
)
def test_a_shared_draw_serves_the_windows_of_a_step_and_no_others(make: Make, method: str, shared: bool) -> None:
    found = [row["positions"] for row in rows(make(method, step_rows=4), 12)]
    assert torch.equal(found[0], found[3]) == shared
    assert torch.equal(found[4], found[7]) == shared
    assert not torch.equal(found[3], found[4])


def test_short_documents_give_short_windows_that_end_in_padding(
    make: Make, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "text"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.txt").write_text(prose(12, number) if number else prose(400, 0), encoding="utf-8")
    tokens = prepare_tokens(source, tokenizer, tmp_path / "tokens", progress=False)
    dataset = make("pose", tokens=tokens)
    assert "3 of 4 documents are shorter than the window of 64 tokens" in caplog.text
    short = [row for row in rows(dataset, 300) if row["labels"][-1] == -100]
    assert short
    for row in short:
        length = int((row["labels"] != -100).sum())
        assert (row["labels"][:length] != -100).all()
        assert (row["positions"][length:] == 0).all()
        assert 0 < row["positions"][length - 1] < TARGET
    assert any(row["positions"][int((row["labels"] != -100).sum()) - 1] > LENGTH for row in short)


def test_padding_and_seams_are_not_learned_by_hand() -> None:
    draw = Draw(np.arange(3), np.array([0, 1, 9]), np.array([2]))
    row = placed_row(torch.tensor([5, 6, 7, 0]), draw)
    assert row["positions"].tolist() == [0, 1, 9, 0]
    assert row["labels"].tolist() == [5, 6, -100, -100]
    assert row["input_ids"].tolist() == [5, 6, 7, 0]


def test_conversations_are_asked_for_where_a_method_needs_turns(make: Make) -> None:
    with pytest.raises(MethodError, match="train it on conversations"):
        make("skip_align")


def test_a_window_longer_than_the_target_is_refused(make: Make) -> None:
    dataset = make("pose")
    assert dataset.placer is not None
    dataset.placer = replace(dataset.placer, window=Window(rotary_dim=8, original_length=1, target_length=32))
    with pytest.raises(LengthError, match="within target_length 32"):
        dataset[0]


@pytest.mark.parametrize(
    ("method", "end"),
    [
        ("pose(chunks=1)", LENGTH),
        ("pose(content='true', source=200)", 200),
        ("pose(content='true', source='document')", None),
        ("pose(content='true')", None),
        ("pose", None),
        ("random_positions", None),
    ],
)
def test_a_target_that_no_window_reaches_is_told_and_the_end_is_the_furthest_that_is_drawn(
    make: Make, caplog: pytest.LogCaptureFixture, method: str, end: int | None
) -> None:
    dataset = make(method)
    furthest = max(int(row["positions"].max()) for row in rows(dataset, 400)) + 1
    if end is None:
        assert caplog.text == ""
        assert TARGET - LENGTH < furthest <= TARGET
    else:
        assert f"does not reach the target of {TARGET} tokens: positions end at {end}," in caplog.text
        assert end - 8 < furthest <= end


def test_true_places_end_with_the_longest_document(
    make: Make, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text.txt").write_text(prose(100, 0), encoding="utf-8")
    tokens = prepare_tokens(tmp_path / "text.txt", tokenizer, tmp_path / "tokens", progress=False)
    count = len(tokens) + (tokenizer.bos_token_id is not None)
    assert LENGTH < count < TARGET
    found = rows(make("pose(content='true')", tokens=tokens), 400)
    assert f"positions end at {count}," in caplog.text
    assert max(int(row["positions"].max()) for row in found) < count
