from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from conftest import make_model
from longspan.errors import CheckpointError, FamilyError
from longspan.evaluate import check_finite
from longspan.evaluate.forward import score
from tolerances import TOLERANCE


def test_a_sound_model_passes(tiny_model: Callable[[str], PreTrainedModel], family: str) -> None:
    model = tiny_model(family)
    check_finite(model, 64)
    assert not model.training


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_named(tiny_model: Callable[[str], PreTrainedModel], bad: float) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = bad
    with pytest.raises(CheckpointError, match=r"no finite numbers \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        check_finite(model, 16)


def test_finite_weights_that_overflow_are_told_from_such(tiny_model: Callable[[str], PreTrainedModel]) -> None:
    model = tiny_model("llama")
    model.model.norm.weight.data.fill_(3e38)
    with pytest.raises(CheckpointError, match=r"output that is no finite number at 16 tokens in torch\.float32"):
        check_finite(model, 16)


@torch.no_grad()
def test_scores_are_those_of_the_models_own_logits(tiny_model: Callable[[str], PreTrainedModel], family: str) -> None:
    """Soft-capped (Gemma 2), scaled (Cohere) and divided (Granite) ones among them."""
    model = tiny_model(family)
    rows = torch.randint(3, 128, (2, 40), generator=torch.Generator().manual_seed(0))
    row, column = torch.tensor([0, 0, 1]), torch.tensor([1, 39, 17])
    found = score(model, rows, row, column)
    logits = model(rows, use_cache=False).logits[row, column - 1]
    expected = torch.nn.functional.cross_entropy(logits.double(), rows[row, column], reduction="none")
    assert torch.allclose(found.nll, expected, rtol=TOLERANCE[torch.float32])
    assert torch.equal(found.choice, logits.argmax(-1))


def test_a_gemma_3_with_capped_logits_is_scored_so() -> None:
    check_finite(make_model("gemma3_text", final_logit_softcapping=2.0), 64)  # which compares logits


def test_logits_that_a_family_changes_in_an_unknown_way_are_noticed(
    tiny_model: Callable[[str], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    forward = type(model).forward

    def doubled(self: PreTrainedModel, **kwargs: object) -> object:
        output = forward(self, **kwargs)
        output.logits = 2 * output.logits
        return output

    monkeypatch.setattr(type(model), "forward", doubled)
    with pytest.raises(FamilyError, match="llama changes its logits in a way that evaluation does not know"):
        check_finite(model, 16)
