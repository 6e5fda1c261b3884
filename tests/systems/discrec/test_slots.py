from __future__ import annotations

import numpy as np
import pytest
import torch

from longspan.equation import Window, fill_slots
from longspan.errors import LengthError, MethodError
from longspan.kernels.dense import attention
from longspan.reference import reference_attention
from longspan.systems.discrec.slots import ItemGrid, ItemLocal

WINDOW = Window(rotary_dim=2, original_length=81, target_length=81)


def seen(length: int, codes: int, closing: bool) -> torch.Tensor:
    x = torch.zeros(1, 1, length, 2)
    return ItemLocal(codes=codes, closing=closing).seen(x, x)[0, 0]


def visible(row: torch.Tensor) -> list[int]:
    return row.nonzero().flatten().tolist()


def test_in_81_tokens_an_item_is_four_and_the_last_one_has_the_closing_token_too() -> None:
    mask = seen(81, 4, True)
    assert visible(mask[0]) == [0, 1, 2, 3]
    assert visible(mask[79]) == visible(mask[80]) == [76, 77, 78, 79, 80]
    assert set(mask.sum(-1).tolist()) == {4, 5}


def test_slot_and_item_are_remainder_and_quotient() -> None:
    grid = ItemGrid(codes=3)
    assert grid.slot(9).tolist() == [t % 3 for t in range(9)]
    assert grid.item(9).tolist() == [t // 3 for t in range(9)]


def test_the_position_slot_draws_the_places_in_the_item_and_closes_with_one_of_its_own() -> None:
    draw = ItemGrid(codes=4, closing=True).draw(9, WINDOW, np.random.default_rng(0))
    assert draw.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]


def test_with_one_code_an_item_a_token_sees_itself_alone() -> None:
    assert torch.equal(seen(7, 1, False), torch.eye(7, dtype=torch.bool))


@pytest.mark.parametrize(("length", "codes", "closing"), [(81, 4, True), (5, 4, True), (12, 3, False), (4, 4, False)])
def test_the_kernel_sees_what_the_reference_sees(length: int, codes: int, closing: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, length, 8, generator=generator) for _ in range(3))
    local = ItemLocal(codes=codes, closing=closing)
    expected = reference_attention(q, k, v, methods=[local])
    torch.testing.assert_close(attention(q, k, v, methods=[local]).double(), expected, atol=1e-6, rtol=1e-5)


def test_they_fill_the_slots_position_and_selection_and_stay_in_force_after_training() -> None:
    slots = fill_slots([ItemGrid(codes=4), ItemLocal(codes=4)])
    assert (slots.position, slots.selection) == (ItemGrid(codes=4), ItemLocal(codes=4))
    assert slots.selects(training=False)
    assert not ItemGrid.only_trains()


def test_tokens_that_are_no_whole_items_are_refused() -> None:
    with pytest.raises(LengthError, match="80 tokens are no items of 4 codes and a closing token"):
        ItemGrid(codes=4, closing=True).item(80)


def test_rows_with_holes_are_refused() -> None:
    x = torch.zeros(1, 1, 8, 2)
    with pytest.raises(MethodError, match="whole rows"):
        attention(x, x, x, methods=[ItemLocal(codes=4)], lengths=[4])
