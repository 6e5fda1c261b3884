"""Dense: a model that was trained with a selection, used without it, is the plain model again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import longspan as ls
from conftest import make_model
from longspan.evaluate.chunks import takes_chunks
from longspan.export import export
from longspan.kernels.dense import attention
from longspan.reference import reference_attention
from longspan.registry import format_methods
from longspan.surgery import current_methods
from surgery_methods import ids, logits
from tolerances import LOGITS, TOLERANCE, distance, logit_distance

SELECTIONS = ("select_merge(region=2,top=8,merge=2)", "select_merge(region=2,top=8,merge=2,positions='selected')")
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_it_takes_the_place_of_a_selection_and_gives_what_none_gives_to_the_bit(selection: str) -> None:
    model, plain, tokens = make_model("llama"), make_model("llama"), ids(length=40)
    stock = logits(plain, tokens)
    ls.extend(plain, "rope()")
    ls.extend(model, selection)
    chosen = logits(model, tokens)
    assert not torch.equal(chosen, logits(plain, tokens))
    assert not takes_chunks(model)
    with ls.extend(model, "dense") as patch:
        assert format_methods(current_methods(model)) == "dense"
        assert str(patch.plan.changes[0]) == "model.layers.0.self_attn.selection <- Dense (all that came before)"
        assert torch.equal(logits(model, tokens), logits(plain, tokens))
        assert logit_distance(logits(model, tokens), stock) < LOGITS
        assert torch.equal(model.generate(tokens, **GREEDY), plain.generate(tokens, **GREEDY))
        assert takes_chunks(model)
    assert torch.equal(logits(model, tokens), chosen)


def test_training_sees_everything_too() -> None:
    model, plain, tokens = make_model("llama").train(), make_model("llama").train(), ids(length=40)
    ls.extend(plain, "rope()")
    ls.extend(model, "s2(group=4)")
    assert not torch.equal(model(tokens).logits, plain(tokens).logits)
    ls.extend(model, "dense")
    assert torch.equal(model(tokens).logits, plain(tokens).logits)


def test_frequencies_stay_and_the_folder_loads_without_longspan(tmp_path: Path) -> None:
    model = make_model("llama")
    ls.extend(model, "yarn+" + SELECTIONS[0], target_length=256)
    ls.extend(model, "dense")
    assert format_methods(current_methods(model)) == "yarn+dense"
    model.save_pretrained(tmp_path / "saved")
    assert format_methods(current_methods(ls.load(tmp_path / "saved"))) == "yarn+dense"
    assert not export(tmp_path / "saved", tmp_path / "out").code
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(plain) is LlamaForCausalLM
    assert logit_distance(logits(plain, ids(length=40)), logits(model, ids(length=40))) < LOGITS


@pytest.mark.parametrize("form", [attention, reference_attention])
def test_both_forms_equal_torch_s_causal_attention(form: object) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 9, 8, dtype=torch.float64, generator=generator) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert distance(form(q, k, v, methods=[ls.Dense()]), expected) < TOLERANCE[torch.float64]
