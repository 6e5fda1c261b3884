"""Adapters: what learns, that a stopped run goes on to the same bits, and that others load what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import longspan
from conftest import make_model
from longspan import surgery
from longspan.errors import ConfigError
from longspan.train.config import RunConfig
from longspan.train.lora import add_lora, learning_tensors, save_adapter
from longspan.train.lora_settings import LoraSettings
from longspan.train.run import train
from longspan.train.trainer import RunTrainer
from tolerances import LOGITS, logit_distance
from train.test_run import same, weights

Make = Callable[..., RunConfig]


@pytest.fixture
def base(tmp_path: Path, run_config: Make) -> Path:
    return train(run_config(steps=2), tmp_path / "base", progress=False)


def settings(base: Path, run_config: Make, **changes: Any) -> dict[str, Any]:
    lora = {"rank": 2, "train_embeddings_and_norms": True, **changes.pop("lora", {})}
    text = {"text": run_config().data.text}
    return {"model": {"from": str(base)}, "data": text, "lora": lora, **changes}


@pytest.mark.parametrize("more", [False, True])
def test_the_number_of_weights_that_learn_is_that_of_the_formula(more: bool, family: str) -> None:
    model = make_model(family)
    names = ("q_proj", "qkv_proj", "query_key_value", "k_proj", "v_proj", "o_proj", "out_proj", "dense")
    linear = [layer for name, layer in model.named_modules() if name.endswith(names)]
    expected = sum(3 * (layer.in_features + layer.out_features) for layer in linear)
    if more:
        expected += model.get_input_embeddings().weight.numel()
        expected += sum(weight.numel() for name, weight in model.named_parameters() if "norm" in name or ".ln_" in name)
    adapted = add_lora(model, LoraSettings(rank=3, train_embeddings_and_norms=more), seed=0)
    found = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert found == expected
    assert sum(torch.Size(shape).numel() for shape in learning_tensors(adapted).values()) == expected


@pytest.mark.parametrize("tied", [False, True])
def test_the_adapter_alone_gives_the_same_logits_on_the_saved_base(tied: bool, family: str, tmp_path: Path) -> None:
    make_model(family, tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    adapted = add_lora(longspan.load(tmp_path / "base"), LoraSettings(train_embeddings_and_norms=True), seed=0).eval()
    ids = torch.randint(3, 128, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        expected = adapted(ids).logits
        (tmp_path / "adapter").mkdir()
        save_adapter(adapted, tmp_path / "adapter", extended=False)
        assert torch.equal(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()(ids).logits, expected)
        assert logit_distance(adapted.merge_and_unload()(ids).logits, expected) < LOGITS


def test_a_run_writes_the_merged_model_and_the_adapter_and_only_what_learns_moves(
    tmp_path: Path, run_config: Make, base: Path
) -> None:
    out = tmp_path / "tuned"
    config = run_config(**settings(base, run_config, methods="coca+yarn", target_length=64, train_length=32))
    merged = AutoModelForCausalLM.from_pretrained(train(config, out, progress=False)).eval()
    assert surgery.current_methods(merged) == (longspan.Coca(), longspan.Yarn())
    before, after = load_file(base / "model.safetensors"), weights(out)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in still} == {"gate_proj", "up_proj", "down_proj"}

    learning = json.loads((out / "plan.json").read_text())["learning"]
    assert learning["base_model.model.model.norm.weight"] == [32]
    assert len(learning) == 2 * 4 * 2 + 1 + 5
    extended = longspan.load(base)
    longspan.extend(extended, "coca+yarn", target_length=64)
    adapted = PeftModel.from_pretrained(extended, out / "adapter").eval()
    ids = torch.randint(3, 300, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert logit_distance(adapted(ids).logits, merged(ids).logits) < LOGITS
    # the base on the disk lacks the methods: nothing may load the adapter onto it by itself
    with pytest.raises(Exception, match=r".+"):
        AutoPeftModelForCausalLM.from_pretrained(out / "adapter")
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(out / "adapter")
    assert json.loads((out / "adapter" / "config.json").read_text())["longspan"]["methods"][0]["name"] == "coca"


def test_a_run_killed_in_the_middle_goes_on_to_the_same_bits_and_its_states_hold_the_adapters_alone(
    tmp_path: Path, run_config: Make, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(**settings(base, run_config, lora={"dropout": 0.3}, micro_batch_tokens=32))
    train(config, tmp_path / "whole", progress=False)
    norm = RunTrainer._get_grad_norm

    def killed(self: RunTrainer, *args: Any, **kwargs: Any) -> float:
        if self.state.global_step == 4:
            raise RuntimeError("killed")
        return float(norm(self, *args, **kwargs))

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "_get_grad_norm", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(config, tmp_path / "killed", progress=False)
    kept = load_file(tmp_path / "killed" / "state" / "step-000000004" / "model.safetensors")
    assert not [name for name in kept if "lora_" not in name and "norm" not in name and "embed" not in name]
    train(config, tmp_path / "killed", progress=False)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    adapters = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("killed", "whole"))
    assert same(*adapters)


def test_what_has_no_effect_or_is_not_there_is_refused(tmp_path: Path, run_config: Make, base: Path) -> None:
    with pytest.raises(ConfigError, match=r"set 'model\.from'"):
        run_config(lora={"rank": 2})
    with pytest.raises(ConfigError, match="both say what learns"):
        run_config(**settings(base, run_config, trainable={0: ["k_proj"]}))
    wrong = run_config(**settings(base, run_config, lora={"targets": ["q_proj", "qq_proj"]}))
    with pytest.raises(ConfigError, match=r"no linear layer 'qq_proj': choose from .*q_proj"):
        train(wrong, tmp_path / "wrong", progress=False)
