"""LoRA on an extended model: train, save, load, merge; the methods stay in force throughout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

import longspan
from export.conftest import logits, tokens
from longspan import surgery
from longspan.errors import CheckpointError
from longspan.export import export
from longspan.models import load_model
from longspan.registry import format_methods
from tolerances import LOGITS, logit_distance

METHODS = "coca+yarn"
LENGTH = 200
TARGETS = {"llama": ["q_proj", "v_proj"], "gpt_neox": ["query_key_value"], "phi3": ["qkv_proj"]}


@pytest.fixture(params=TARGETS)
def tuned(request: pytest.FixtureRequest, extended: Callable[..., PreTrainedModel], tmp_path: Path) -> PeftModel:
    """A tiny extended model after two steps of LoRA, with its base saved at "source" and its adapter at "adapter"."""
    extended(METHODS, request.param)
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=TARGETS[request.param], task_type="CAUSAL_LM")
    model = get_peft_model(longspan.load(tmp_path / "source"), settings).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    ids = tokens(LENGTH, batch=2)
    losses = []
    for _ in range(2):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    model.save_pretrained(tmp_path / "adapter")
    return model.eval()


def in_force(model: PreTrainedModel) -> str:
    return format_methods(surgery.current_methods(model))


def test_training_moves_the_adapters_alone(tuned: PeftModel, tmp_path: Path) -> None:
    base = longspan.load(tmp_path / "source").eval()
    assert logit_distance(logits(tuned, LENGTH), logits(base, LENGTH)) > 0.1
    with tuned.disable_adapter():
        assert logits(tuned, LENGTH).equal(logits(base, LENGTH))


def test_a_saved_adapter_gives_the_same_logits_on_the_saved_base(tuned: PeftModel, tmp_path: Path) -> None:
    again = PeftModel.from_pretrained(longspan.load(tmp_path / "source"), tmp_path / "adapter").eval()
    assert logits(again, LENGTH).equal(logits(tuned, LENGTH))
    found = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert in_force(found.get_base_model()) == METHODS
    assert logits(found, LENGTH).equal(logits(tuned, LENGTH))


def test_methods_and_adapter_live_in_one_folder(tuned: PeftModel, tmp_path: Path) -> None:
    tuned.save_pretrained(tmp_path / "source")
    for load in (AutoModelForCausalLM.from_pretrained, load_model):
        model = load(tmp_path / "source").eval()
        assert in_force(model) == METHODS
        assert logits(model, LENGTH).equal(logits(tuned, LENGTH))
    with pytest.raises(CheckpointError, match="merge it"):
        export(tmp_path / "source", tmp_path / "out")


def test_a_merged_model_equals_the_adapted_one_and_keeps_its_methods(tuned: PeftModel, tmp_path: Path) -> None:
    expected = logits(tuned, LENGTH)
    merged = tuned.merge_and_unload()
    assert logit_distance(logits(merged, LENGTH), expected) < LOGITS
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert in_force(again) == METHODS
    assert logits(again, LENGTH).equal(logits(merged, LENGTH))
    assert export(tmp_path / "merged", tmp_path / "out").code


def test_an_adapted_model_generates_through_its_cache(tuned: PeftModel) -> None:
    prompt = tokens(100)
    options = {"max_new_tokens": 4, "do_sample": False}
    cached = tuned.generate(input_ids=prompt, **options)
    assert cached.equal(tuned.generate(input_ids=prompt, use_cache=False, **options))
