"""MLPs that read a row in pieces, against one pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from longspan.evaluate.feed_forward import feed_forward_in_pieces
from longspan.evaluate.forward import score
from surgery_methods import ids, logits


@torch.no_grad()
def test_pieces_give_what_one_pass_gives_and_leave_nothing_behind(
    family: str, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    model, tokens = tiny_model(family), ids(length=60)
    expected, own = logits(model, tokens), [dict(vars(module)) for module in model.modules()]
    with feed_forward_in_pieces(model, 7):
        torch.testing.assert_close(logits(model, tokens), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(logits(model, tokens), expected)
    assert [list(vars(module)) for module in model.modules()] == [list(names) for names in own]


@torch.no_grad()
@pytest.mark.parametrize("nested", [False, True])
def test_no_mlp_sees_more_than_a_piece(nested: bool, tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model, seen = tiny_model("llama"), []
    for layer in model.model.layers:
        layer.mlp.gate_proj.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    with feed_forward_in_pieces(model, 32):
        if nested:
            with feed_forward_in_pieces(model, 32):
                pass
        logits(model, ids(length=100))
    assert seen == [32, 32, 32, 4] * 2


@torch.no_grad()
def test_long_rows_are_scored_so(tiny_model: Callable[[str], PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model, row, seen = tiny_model("llama"), ids(rows=1), []
    model.model.layers[0].mlp.gate_proj.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    targets = torch.zeros(3, dtype=torch.long), torch.tensor([10, 20, 30])
    expected = score(model, row, *targets)
    assert seen == [100]
    monkeypatch.setattr(feed_forward_in_pieces.__wrapped__, "__defaults__", (50,))
    torch.testing.assert_close(score(model, row, *targets).nll, expected.nll, rtol=0, atol=1e-5)
    assert seen == [100, 50, 50]
