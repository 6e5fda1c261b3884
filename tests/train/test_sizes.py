from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from longspan.errors import ConfigError, FamilyError
from longspan.train.sizes import SIZES, Size, build_model, model_config

TINY = Size(layers=2, width=64, heads=2, intermediate=128, tied=True)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize(
    ("size", "vocab_size", "millions"),
    [
        ("1m", 1024, 1),
        ("3m", 2048, 3),
        ("10m", 4096, 10),
        ("30m", 8192, 30),
        ("125m", 50304, 125),
        ("350m", 32000, 350),
    ],
)
def test_a_size_is_named_for_its_parameters(family: str, size: str, vocab_size: int, millions: int) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(family, size, vocab_size, 512, 10000.0))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == pytest.approx(millions * 1e6, rel=0.25)


def test_parameters_of_the_smallest_size_by_hand() -> None:
    model = build_model("llama", "1m", 1024, 128, 10000.0, (), seed=0)
    layer = 4 * 128 * 128 + 3 * 128 * 344 + 2 * 128
    assert sum(parameter.numel() for parameter in model.parameters()) == 1024 * 128 + 4 * layer + 128


def test_all_arms_of_a_seed_start_from_the_same_weights() -> None:
    plain, coca = (build_model("llama", TINY, 300, 32, 1e4, methods, seed=3) for methods in ("rope", "coca"))
    other = build_model("llama", TINY, 300, 32, 1e4, "rope", seed=4)
    weights, patched = plain.state_dict(), coca.state_dict()
    assert weights.keys() <= patched.keys()
    assert all(torch.equal(weight, patched[name]) for name, weight in weights.items())
    assert not torch.equal(weights["lm_head.weight"], other.state_dict()["lm_head.weight"])


def test_building_leaves_the_global_random_generator_alone_in_what_it_makes() -> None:
    torch.manual_seed(1)
    first = build_model("llama", TINY, 300, 32, 1e4, "rope", seed=0)
    torch.manual_seed(2)
    second = build_model("llama", TINY, 300, 32, 1e4, "rope", seed=0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("family", "output"), [("llama", ("o_proj", "down_proj")), ("gpt_neox", ("attention.dense", "dense_4h_to_h"))]
)
def test_matrices_start_at_the_inverse_root_of_the_width_and_output_projections_at_half(
    family: str, output: tuple[str, ...]
) -> None:
    model = build_model(family, "1m", 1024, 128, 10000.0, (), seed=0)
    halved = 0
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            is_output = name.removesuffix(".weight").endswith(output)
            expected = 128**-0.5 * (0.5 if is_output else 1)
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
            halved += is_output
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            assert torch.equal(parameter, torch.ones_like(parameter))
    assert halved == 2 * SIZES["1m"].layers


def test_the_methods_are_in_force_at_the_training_length_with_factor_one() -> None:
    model = build_model("gpt_neox", TINY, 300, 32, 500.0, "coca", seed=0, rotary_pct=0.5)
    assert model.config.longspan["original_length"] == model.config.longspan["target_length"] == 32
    assert model.config.longspan["methods"][0]["name"] == "coca"
    assert model.config.rope_parameters["rope_theta"] == 500
    assert model.config.rope_parameters["partial_rotary_factor"] == 0.5


def test_unknown_names_are_errors_that_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown size '2m': choose one of 1m, 3m"):
        build_model("llama", "2m", 300, 32, 1e4, "rope", seed=0)
    with pytest.raises(FamilyError, match="unknown family 'mamba': choose one of llama, gpt_neox"):
        build_model("mamba", "1m", 300, 32, 1e4, "rope", seed=0)
