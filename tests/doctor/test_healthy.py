"""No alarm on a healthy model, whatever the family, the method, the dtype or the way of extending it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

import longspan as ls
from conftest import FAMILIES, TRAIN_LENGTH, make_model
from doctor.faults import TARGET, by_transformers
from longspan.doctor import CHECKS, Report
from longspan.errors import ConfigError
from surgery_methods import METHODS

Maker = Callable[[str], PreTrainedModel]
SCALED = {"rope_theta": 10000.0, "factor": 4.0}
OWN_TYPES = {
    "linear": (TRAIN_LENGTH, {}),
    "yarn": (TARGET, {"original_max_position_embeddings": TRAIN_LENGTH}),
    "llama3": (
        4 * TARGET,  # as Llama 3.1 has it: the window is longer than the factor says
        {"original_max_position_embeddings": TRAIN_LENGTH, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
}
"""transformers' own rope types, the length that belongs into the config, and their settings."""


def alarms(report: Report) -> list[str]:
    return [f"{check.name}: {check.measured} ({check.detail})" for check in report.failed]


def test_no_alarm_on_any_method(methods: str, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    against = copy.deepcopy(model)
    ls.extend(model, methods, target_length=TARGET)
    report = ls.doctor(model, against=against if methods != "rope" else None)
    assert not alarms(report)
    assert [check.name for check in report.checks if check.passed is None and not check.detail] == []


@pytest.mark.parametrize("methods", ["pose", "s2"])
def test_no_alarm_on_a_method_that_acts_in_training_only(methods: str, tiny_model: Maker) -> None:
    model = tiny_model("llama")
    against = copy.deepcopy(model)
    ls.extend(model, methods, target_length=TARGET)
    report = ls.doctor(model, against=against)
    assert not alarms(report)
    in_effect = next(check for check in report.checks if check.name == "in_effect")
    assert in_effect.detail == f"{methods} acts in training only"


def test_no_alarm_on_any_family(family: str, tiny_model: Maker) -> None:
    model = tiny_model(family)
    ls.extend(model, "coca+yarn", target_length=TARGET)
    assert not alarms(ls.doctor(model))


@pytest.mark.parametrize(
    "family_name", ["gemma2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("granite", "gptj"))]
)
def test_no_alarm_on_bands_where_logits_are_scaled_otherwise(family_name: str, tiny_model: Maker) -> None:
    model = tiny_model(family_name)
    ls.extend(model, "dual_chunk", target_length=TARGET)
    assert not alarms(ls.doctor(model))


@pytest.mark.slow
@pytest.mark.parametrize("methods_text", METHODS)
@pytest.mark.parametrize("family_name", FAMILIES)
def test_no_alarm_on_any_family_with_any_method(family_name: str, methods_text: str, tiny_model: Maker) -> None:
    model = tiny_model(family_name)
    ls.extend(model, methods_text, target_length=TARGET)
    assert not alarms(ls.doctor(model))


@pytest.mark.parametrize("kind", OWN_TYPES)
def test_no_alarm_on_models_that_transformers_extends(kind: str, tiny_model: Maker) -> None:
    length, settings = OWN_TYPES[kind]
    plain = tiny_model("llama")
    model = by_transformers(plain, length, rope_type=kind, **SCALED, **settings)
    report = ls.doctor(model, against=plain)
    assert not alarms(report)
    assert report["in_effect"].passed
    assert report["attention_scores"].passed


@pytest.mark.parametrize("family_name", ["gemma3_text", "gpt_neox", "gptj"])
def test_no_alarm_on_a_plain_model(family_name: str, tiny_model: Maker) -> None:
    assert not alarms(ls.doctor(tiny_model(family_name)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("methods_text", ["yarn", "coca+dynamic_ntk(factor=4.0)"])
def test_no_alarm_in_other_dtypes(methods_text: str, dtype: torch.dtype, tiny_model: Maker) -> None:
    model = tiny_model("llama").to(dtype)
    ls.extend(model, methods_text, target_length=TARGET)
    assert not alarms(ls.doctor(model))


def test_no_alarm_with_eager_attention(tiny_model: Maker) -> None:
    model = tiny_model("qwen3")
    model.set_attn_implementation("eager")
    ls.extend(model, "pope+yarn", target_length=TARGET)
    assert not alarms(ls.doctor(model))


def test_no_alarm_on_layers_that_slide_with_another_seed() -> None:
    model = make_model("mistral", seed=1, sliding_window=16)
    ls.extend(model, "coca+yarn", target_length=TARGET)
    assert not alarms(ls.doctor(model, seed=1))


def test_the_model_is_as_before(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    patch = ls.extend(model, "coca+yarn", target_length=TARGET)
    model.train()
    weights = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    ls.doctor(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert model.config._attn_implementation == "sdpa"
    patch.undo()


def test_only_the_first_layers_of_a_deep_model_are_written(tiny_model: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", num_hidden_layers=5)
    ls.extend(model, "yarn", target_length=TARGET)
    saved = []
    save = type(model).save_pretrained
    monkeypatch.setattr(type(model), "save_pretrained", lambda self, *a, **k: (saved.append(self), save(self, *a, **k)))
    assert not alarms(ls.doctor(model))
    assert [len(written.base_model.layers) for written in saved] == [2]
    assert model.config.num_hidden_layers == len(model.base_model.layers) == 5


def test_the_plain_form_shares_the_weights_and_is_transformers_own(tiny_model: Maker) -> None:
    from longspan.doctor.plain import plain_model

    plain = tiny_model("gpt_neox")
    model = copy.deepcopy(plain)
    ls.extend(model, "coca+pi", target_length=TARGET)
    found = plain_model(model)
    tokens = torch.arange(40)[None]
    assert type(found) is type(plain)
    assert torch.equal(found(tokens).logits, plain(tokens).logits)
    theirs = dict(model.named_parameters())
    assert all(value.data_ptr() == theirs[name].data_ptr() for name, value in found.named_parameters())


def test_a_report_is_a_table_and_json(tiny_model: Maker) -> None:
    report = ls.doctor(tiny_model("llama"))
    assert report.passed
    assert [row["name"] for row in report.to_json()["checks"]] == [check.name for check in report.checks]
    assert {check.name for check in report.checks} == set(CHECKS)
    lines = str(report).splitlines()
    assert all(len(line) <= 120 for line in lines)
    assert lines[-1].endswith("0 failed, 3 do not apply")


def test_a_family_that_surgery_does_not_know_is_examined_as_far_as_it_goes() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048}
    report = ls.doctor(GPT2LMHeadModel(GPT2Config(**sizes)).eval())
    assert report["causality"].passed
    assert report["frequencies"].passed is None


def test_what_is_not_a_model_with_weights_is_refused(tiny_model: Maker) -> None:
    with pytest.raises(ConfigError, match="not a str"):
        ls.doctor("llama")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is a qwen3 and this one a llama: give the plain model"):
        ls.doctor(tiny_model("llama"), against=tiny_model("qwen3"))
    with pytest.raises(ConfigError, match="no weights"):
        ls.doctor(tiny_model("llama").to("meta"))


def test_a_model_with_an_adapter_is_refused_in_one_line(tiny_model: Maker) -> None:
    peft = pytest.importorskip("peft")
    model = tiny_model("llama")
    ls.extend(model, "coca+yarn", target_length=TARGET)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    for given in (adapted, adapted.get_base_model()):
        with pytest.raises(ConfigError, match=r"has an adapter beside its weights: examine model\.merge_and_unload"):
            ls.doctor(given)
    assert not alarms(ls.doctor(adapted.merge_and_unload()))


def test_the_room_and_the_function_of_one_name_are_both_called(tiny_model: Maker) -> None:
    import longspan.doctor as room

    model = tiny_model("llama")
    assert room(model) == room.doctor(model) == ls.doctor(model)  # type: ignore[operator]
