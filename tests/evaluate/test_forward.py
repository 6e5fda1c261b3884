from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from longspan.errors import CheckpointError
from longspan.evaluate import check_finite


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
