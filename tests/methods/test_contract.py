"""What every method that is found must keep, whoever wrote it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from longspan.equation import Feature, Frequency, Scale, Window, fill_slots
from longspan.errors import MethodError
from longspan.kernels.dense import attention
from longspan.methods.feature.coca import Coca
from longspan.methods.feature.pope import PoPE
from longspan.methods.frequency.dynamic_ntk import DynamicNtk
from longspan.methods.frequency.long_rope import LongRope
from longspan.methods.frequency.rope import Rope
from longspan.methods.frequency.yarn import Yarn
from longspan.methods.scale.log_n import LogN
from longspan.reference import reference_attention
from longspan.registry import all_methods, card, format_methods, methods_from_json, methods_to_json, parse_methods
from tolerances import TOLERANCE, distance

VARIANTS = [
    *(kind() for kind in all_methods().values()),
    Coca(form="slack"),
    Coca(form="strict"),
    Coca(gate="softplus"),
    PoPE(width="half"),
    PoPE(phase=False, gate="relu"),
    DynamicNtk(static_for="target"),
    DynamicNtk(factor=4.0),
    LongRope(static_for="target"),
    LongRope(start_tokens=3),
    Yarn(ramp="turns"),
    Yarn(ramp="harmonic"),
]


def each(methods: list) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", methods, ids=lambda method: format_methods([method]))


BY_FACTOR = [m for m in VARIANTS if type(m).scales_window and getattr(m, "factor", None) is None]
SCALED_FREQUENCIES = [m for m in BY_FACTOR if isinstance(m, Frequency)]
FEATURES = [m for m in VARIANTS if isinstance(m, Feature)]
ABSOLUTE = (LogN(), Coca(form="slack"), LongRope(start_tokens=3))
RELATIVE = [m for m in VARIANTS if m not in ABSOLUTE]


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", all_methods())
def test_the_card_has_every_field(name: str) -> None:
    text = card(name)
    for field in ("Formula", "Source", "Differs", "Checked", "Training"):
        assert f"\n{field} " in text, f"{name}: the card lacks the field {field}"


@pytest.mark.parametrize("name", all_methods())
def test_every_setting_is_documented(name: str) -> None:
    for field in dataclasses.fields(all_methods()[name]):
        text = card(name).partition("Settings")[2].partition(f"  {field.name} = ")[2].partition("\n")[2]
        assert len(text.strip().partition("\n")[0]) > 20, f"{name}: say under {field.name} what it does"


@each(VARIANTS)
def test_equal_settings_are_equal_hashable_values(method: object) -> None:
    copy = dataclasses.replace(method)
    assert copy == method
    assert hash(copy) == hash(method)


@each(VARIANTS)
def test_spelling_and_config_give_the_method_back(method: object) -> None:
    assert methods_from_json(methods_to_json([method])) == (method,)
    plain = isinstance(method, Rope)  # plain RoPE is spelled as no method at all, so that a scaling can follow it
    assert parse_methods(format_methods([method])) == (() if plain else (method,))


@each(BY_FACTOR)
def test_factor_one_changes_nothing(method: object) -> None:
    window = Window(rotary_dim=16, original_length=64, target_length=64)
    if isinstance(method, Frequency):
        assert torch.allclose(method.frequency(window.at(64)), window.omega, rtol=1e-15, atol=0)
    if isinstance(method, Scale):
        assert torch.equal(method.scale(window, torch.arange(64)), torch.ones(64, dtype=torch.float64))


@each(SCALED_FREQUENCIES)
def test_no_pair_turns_faster_than_before_nor_slower_than_the_factor_asks(method: object) -> None:
    window = Window(rotary_dim=16, original_length=64, target_length=256)
    slowed = window.omega / method.frequency(window.at(128))
    assert slowed.min() >= 1 - 1e-12
    # dynamic NTK's own formula slows the last pair by a N/L - (a - 1), here 4 * 4 - 3 at most
    assert slowed.max() <= (13 if isinstance(method, DynamicNtk) else 4) + 1e-9


@each(VARIANTS)
@pytest.mark.parametrize("rotary_dim", [16, 8], ids=["full", "partial"])
def test_fast_path_and_gradients_equal_the_reference_on_odd_lengths(method: object, rotary_dim: int) -> None:
    window = Window(rotary_dim=rotary_dim, original_length=4, target_length=16)
    shapes = ((2, 4, 5, 16), (2, 2, 11, 16), (2, 2, 11, 6))
    fast = [draw(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    slow = [x.detach().clone().requires_grad_() for x in fast]
    found = attention(*fast, methods=[method], window=window, lengths=[11, 9])
    expected = reference_attention(*slow, methods=[method], window=window, lengths=[11, 9])
    weights = draw(*found.shape, seed=9)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert distance(found, expected) < TOLERANCE[torch.float64]
    for one, other in zip(fast, slow, strict=True):
        assert distance(one.grad, other.grad) < TOLERANCE[torch.float64]


@each(VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_stays_close_to_the_reference(method: object, dtype: torch.dtype) -> None:
    window = Window(rotary_dim=16, original_length=8, target_length=64)
    q, k, v = (draw(1, 2, 33, 16, seed=i, dtype=torch.float32).to(dtype) for i in range(3))
    found = attention(q, k, v, methods=[method], window=window)
    assert distance(found, reference_attention(q, k, v, methods=[method], window=window)) < TOLERANCE[dtype]


@each(RELATIVE)
def test_moving_all_positions_changes_nothing(method: object) -> None:
    window = Window(rotary_dim=16, original_length=64, target_length=256)
    q, k, v = (draw(1, 2, 20, 16, seed=i) for i in range(3))
    near = torch.arange(20)
    here = reference_attention(q, k, v, methods=[method], window=window, query_positions=near, key_positions=near)
    there = reference_attention(
        q, k, v, methods=[method], window=window, query_positions=near + 1000, key_positions=near + 1000
    )
    assert distance(there, here) < 1e-9


@each(VARIANTS)
def test_the_slots_are_those_of_the_folder(method: object) -> None:
    folder = type(method).__module__.split(".")[2]
    assert folder in type(method).slots()
    assert fill_slots([method]) != fill_slots([])


def test_every_method_file_has_a_test_of_its_name() -> None:
    tests = {path.name for path in Path(__file__).parent.rglob("test_*.py")}
    missing = [name for name in all_methods() if f"test_{name}.py" not in tests]
    assert not missing, f"methods without a test: {missing}"


@each(FEATURES)
def test_features_return_pairs_or_first_members(method: object) -> None:
    wide = method.rotary_dim(16)
    parameters = method.parameters(2, 16)
    assert method.phi(draw(1, 2, 3, 16, seed=0), "half").shape[-1] in (wide, wide // 2)
    assert method.psi(draw(1, 2, 3, 16, seed=0), "half", parameters).shape[-1] in (wide, wide // 2)


WRONG = [
    (Coca, {"form": "slakc"}, "'exact' or 'slack' or 'strict'"),
    (PoPE, {"width": "quarter"}, "'full' or 'half'"),
    (Yarn, {"ramp": "turn"}, "'index' or 'turns' or 'harmonic'"),
    (Yarn, {"factor": math.inf}, "a value of type float"),
    (Yarn, {"factor": -1}, "at least 1"),
    (Yarn, {"beta_fast": 1, "beta_slow": 32}, "beta_fast must be above beta_slow"),
    (DynamicNtk, {"static_for": -3}, "must be positive"),
    (DynamicNtk, {"factor": 0.5}, "at least 1"),
    (LongRope, {"long_factor": [1, 0]}, "long_factor has 0 for pair 1, but factors must be positive"),
    (LongRope, {"long_factor": [1, "2"]}, "long_factor='2'"),
    (LongRope, {"short_factor": 2}, "give a list of numbers or None"),
    (LongRope, {"start_tokens": -1}, "must not be negative"),
]


@pytest.mark.parametrize(("kind", "settings", "says"), WRONG)
def test_settings_are_checked_whoever_makes_the_method(kind: type, settings: dict, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        kind(**settings)


@each(SCALED_FREQUENCIES)
@pytest.mark.parametrize("path", [attention, reference_attention])
def test_a_method_that_needs_a_window_is_refused_without_one(method: object, path: object) -> None:
    q = draw(1, 1, 4, 8, seed=0)
    with pytest.raises(MethodError, match="needs a window"):
        path(q, q, q, methods=[method])
