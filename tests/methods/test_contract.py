"""What every method that is found must keep, whoever wrote it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import longspan as ls
from conftest import make_model
from longspan.equation import Feature, Frequency, Position, Scale, Window, fill_slots
from longspan.errors import MethodError
from longspan.kernels.dense import attention
from longspan.methods.bands.dual_chunk import DualChunk
from longspan.methods.bands.lm_infinite import LmInfinite
from longspan.methods.bands.re_rope import ReRope
from longspan.methods.bands.self_extend import SelfExtend
from longspan.methods.bands.streaming import Streaming
from longspan.methods.bias.alibi import Alibi
from longspan.methods.feature.coca import Coca
from longspan.methods.feature.pope import PoPE
from longspan.methods.frequency.base_change import BaseChange
from longspan.methods.frequency.crd_ntk import CrdNtk
from longspan.methods.frequency.dynamic_ntk import DynamicNtk
from longspan.methods.frequency.long_rope import LongRope
from longspan.methods.frequency.rope import Rope
from longspan.methods.frequency.yarn import Yarn
from longspan.methods.position.pose import PoSE
from longspan.methods.position.random_positions import RandomPositions
from longspan.methods.position.skip_align import SkipAlign
from longspan.methods.scale.log_n import LogN
from longspan.methods.selection.s2 import S2
from longspan.methods.selection.select_merge import SelectMerge
from longspan.reference import reference_attention
from longspan.registry import all_methods, card, format_methods, methods_from_json, methods_to_json, parse_methods
from longspan.surgery import placed
from longspan.surgery.families import window_of
from tolerances import TOLERANCE, distance, logit_distance

NEEDS_ROOM = {"lm_infinite": LmInfinite(sinks=2), "self_extend": SelfExtend(neighbors=2, group=2)}
"""Settings for a trained window of four tokens, where the usual ones would do nothing or not fit."""
NEEDS_ROOM |= {"streaming": Streaming(sinks=1), "re_rope": ReRope(window=2)}
VARIANTS = [
    *(NEEDS_ROOM.get(name) or kind() for name, kind in all_methods().items()),
    ReRope(window=2, leak=3.0),
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
    PoSE(chunks=3, content="true", floating=True),
    SkipAlign(law="sorted", strategy="all"),
    RandomPositions(per="batch"),
    CrdNtk(growing=False),
    S2(group=4),
    SelectMerge(region=2, top=8, merge=2, positions="selected"),
    SelectMerge(region=2, top=8, merge=2, positions="selected_absolute", route_heads="kv"),
]


def each(methods: list) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", methods, ids=lambda method: format_methods([method]))


BY_FACTOR = [m for m in VARIANTS if type(m).scales_window and getattr(m, "factor", None) is None]
SCALED_FREQUENCIES = [m for m in BY_FACTOR if isinstance(m, Frequency)]
POSITIONS = [m for m in VARIANTS if isinstance(m, Position)]
FEATURES = [m for m in VARIANTS if isinstance(m, Feature)]
ABSOLUTE = (LogN(), Coca(form="slack"), LongRope(start_tokens=3))
BY_PLACE = (SelfExtend, DualChunk, LmInfinite, Streaming)
"""Groups, chunks and sinks lie where they lie, whoever looks."""
RELATIVE = [m for m in VARIANTS if m not in ABSOLUTE and not isinstance(m, BY_PLACE)]


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


def drawn(method: Position, seed: int) -> list[np.ndarray]:
    window = Window(rotary_dim=16, original_length=16, target_length=64)
    turns = np.repeat(np.arange(4), 4)
    return list(method.draw(16, window, np.random.default_rng(seed), document=40, turns=turns))


@each(POSITIONS)
def test_a_window_of_training_is_whole_numbers_that_depend_on_the_seed_alone(method: Position) -> None:
    draws = [drawn(method, seed) for seed in range(8)]
    for seed, draw in enumerate(draws):
        assert all(part.dtype == np.int64 for part in draw)
        assert len(draw[0]) == len(draw[1]) == 16
        assert draw[1].min() >= 0
        assert all(np.array_equal(one, two) for one, two in zip(draw, drawn(method, seed), strict=True))
    assert len({tuple(draw[1].tolist()) for draw in draws}) > 1


@each([m for m in POSITIONS if not isinstance(m, Frequency)])
def test_positions_end_at_the_target_and_a_window_as_long_as_it_is_plain(method: Position) -> None:
    assert max(drawn(method, seed)[1].max() for seed in range(50)) < 64
    window = Window(rotary_dim=16, original_length=16, target_length=16)
    found = method.draw(16, window, np.random.default_rng(0), turns=np.arange(16))
    assert found.positions.tolist() == found.tokens.tolist() == list(range(16))


@each(POSITIONS)
def test_positions_act_in_training_only(method: Position) -> None:
    model, other = make_model("llama"), make_model("llama")
    rest = [Rope(), LogN()] if not isinstance(method, Frequency) else [LogN()]
    ls.extend(model, [*rest, method], target_length=256)
    if isinstance(method, Frequency):  # its frequencies stay, as those of the base that they come to
        base = float(method.frequency(window_of(other.config, 64, 256))[1]) ** -4
        rest.append(BaseChange(base=base))
    ls.extend(other, rest, target_length=256)
    tokens = torch.arange(3, 103)[None]
    positions = torch.cat((torch.arange(50), torch.arange(50) + 99))[None]
    with torch.no_grad(), placed(model, positions):
        found = model(tokens).logits
        assert logit_distance(found, other(tokens).logits) < 1e-5
        model.train()
        assert logit_distance(model(tokens).logits, found) > 0.01


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


@pytest.mark.parametrize("other", [Alibi(), LongRope(start_tokens=3)])
def test_bands_are_refused_beside_what_they_would_contradict(other: object) -> None:
    with pytest.raises(MethodError, match="ReRope"):
        fill_slots([ReRope(), other])
