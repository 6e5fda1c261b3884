"""Select-and-merge as a method: both its forms against a definition written apart, under every kind of positions."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import longspan as ls
from longspan.equation import Window, fill_slots
from longspan.errors import MethodError
from longspan.kernels.dense import attention
from longspan.methods.selection.select_merge import SelectMerge
from longspan.reference import reference_attention
from longspan.registry import parse_methods
from longspan.rotation import rotate_pairs, rotation_tables
from select_merge_definition import attention as defined_attention
from select_merge_definition import choices
from tolerances import TOLERANCE, distance

WINDOW = Window(rotary_dim=8, original_length=8, target_length=32)
POSITIONS = ("all", "selected", "selected_absolute")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(length: int, heads: int = 4, key_heads: int = 2) -> list[Tensor]:
    return [draw(1, h, length, 8, seed=seed) for seed, h in enumerate((heads, key_heads, key_heads))]


def small(**settings: object) -> SelectMerge:
    return SelectMerge(**{"region": 2, "top": 4, "merge": 2, **settings})


def rotated(x: Tensor, positions: Tensor) -> Tensor:
    return rotate_pairs(x, *rotation_tables(WINDOW.omega, positions, x.dtype), "half")


@pytest.mark.parametrize("routing", ["shifted", "lookahead"])
@pytest.mark.parametrize("eligible", ["draft", "before_group"])
@pytest.mark.parametrize(
    ("route_heads", "local", "rating", "follow"),
    [("query", 0, "mean", False), ("kv", 0, "mean", True), ("query", 1, "mean", False), ("kv", 1, "bound", True)],
)
def test_what_is_seen_is_what_the_list_based_definition_chooses(
    routing: str, eligible: str, route_heads: str, local: int, rating: str, follow: bool
) -> None:
    q, k, _ = make(29)
    how = {"routing": routing, "eligible": eligible, "rating": rating, "follow": follow}
    method = small(route_heads=route_heads, local=local, **how)
    chosen = choices(q, k, method.sizes(), per_key_head=route_heads == "kv", **how)
    seen = method.seen(q, k)
    for head, token in itertools.product(range(4), range(29)):
        expected = set(range(token + 1))
        if token >= 8:
            group = (token - 8) // 4
            past = {region * 2 + i for region in chosen[0][head][group] for i in (0, 1)}
            expected = past | set(range(8 + 4 * group, token + 1))
        assert set(seen[0, head, token].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("always", [{}, {"local": 1}, {"top": 6, "local": 1, "sinks": 1}])
def test_the_reference_and_the_fast_form_equal_the_definition(positions: str, always: dict[str, int]) -> None:
    q, k, v = make(29)
    method = small(positions=positions, **always)
    place = torch.arange(29)
    turned = [rotated(q, place), rotated(k, place)]
    chosen = choices(*(turned if positions == "all" else (q, k)), method.sizes())
    if positions == "selected":
        expected = defined_attention(q, k, v, method.sizes(), chosen, turn=rotated)
    else:
        expected = defined_attention(*turned, v, method.sizes(), chosen)
    for form in (attention, reference_attention):
        assert distance(form(q, k, v, methods=[method], window=WINDOW), expected) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("before", ["", "coca", "ntk+log_n", "pope", "long_rope(start_tokens=3)", "crd_ntk"])
@pytest.mark.parametrize("lengths", [None, [27, 19]])
def test_the_fast_form_and_its_gradients_equal_the_reference(
    positions: str, before: str, lengths: list[int] | None
) -> None:
    methods = [*(parse_methods(before) if before else ()), small(positions=positions, route_heads="kv")]
    shapes = ((2, 4, 27, 12), (2, 2, 27, 12), (2, 2, 27, 6))
    fast = [draw(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    slow = [x.detach().clone().requires_grad_() for x in fast]
    given = {"methods": methods, "window": WINDOW, "lengths": lengths}
    found, expected = attention(*fast, **given), reference_attention(*slow, **given)
    weights = draw(*found.shape, seed=9)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert distance(found, expected) < TOLERANCE[torch.float64]
    for one, other in zip(fast, slow, strict=True):
        assert distance(one.grad, other.grad) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("form", [attention, reference_attention])
@pytest.mark.parametrize("positions", POSITIONS)
def test_nothing_later_moves_an_earlier_output_and_looking_ahead_fails_this(form: object, positions: str) -> None:
    q, k, v = make(28)
    for routing in ("shifted", "lookahead"):
        method, moved = small(positions=positions, routing=routing), []
        before = form(q, k, v, methods=[method], window=WINDOW)
        for place in (9, 13, 14, 15, 22, 27):
            others = [x.clone() for x in (q, k, v)]
            for x in others:
                x[:, :, place:] *= -3
            after = form(*others, methods=[method], window=WINDOW)
            moved.append(not torch.equal(after[:, :, :place], before[:, :, :place]))
        assert any(moved) == (routing == "lookahead")


def test_under_compact_positions_distances_stay_below_the_front_whatever_the_length() -> None:
    """A pair that turns by one radian a token tells every distance."""
    q = torch.zeros(1, 1, 61, 64, dtype=torch.float64)
    q[..., :2] = 8.0
    v = torch.eye(61, 64, dtype=torch.float64)[None, None]
    window = Window(rotary_dim=2, original_length=64, target_length=64)
    weights = attention(q, q, v, methods=[small(positions="selected")], window=window)[0, 0, 60]
    dots = weights[weights > 0].log()
    assert len(dots) == 5  # four that were selected, and its own
    expected = 16 * torch.arange(4, -1, -1, dtype=torch.float64).cos()  # 128 cos(distance) / 8
    assert distance(dots - dots[-1], expected - expected[-1]) < 1e-9


def test_right_padding_changes_no_row_even_where_routing_looks_ahead() -> None:
    q, k, v = make(29)
    for form in (attention, reference_attention):
        method = small(routing="lookahead")
        padded = [torch.cat((x[:, :, :22], 50 * x[:, :, 22:]), dim=2) for x in (q, k, v)]
        found = form(*padded, methods=[method], window=WINDOW, lengths=[22])[:, :, :22]
        alone = form(*(x[:, :, :22] for x in (q, k, v)), methods=[method], window=WINDOW)
        assert distance(found, alone) < 1e-12


def test_what_it_cannot_do_is_refused_with_the_reason() -> None:
    for settings, says in (
        ({"top": 9}, "must be a multiple of merge"),
        ({"merge": 4}, "and larger: nothing is selected"),
        ({"region": 0}, "at least 1"),
        ({"local": 3}, "between 0 and the 2 regions"),
        ({"routing": "ahead"}, "'shifted' or 'lookahead'"),
        ({"rating": "best"}, "'mean' or 'bound'"),
        ({"positions": "none"}, "'all' or 'selected' or 'selected_absolute'"),
    ):
        with pytest.raises(MethodError, match=says):
            small(**settings)
    for other, says in (
        ("alibi", "SelectMerge and Alibi do not go together|Alibi and SelectMerge do not go together"),
        ("re_rope", "ReRope and SelectMerge both say"),
        ("s2", "both fill the slot 'selection'"),
    ):
        with pytest.raises(MethodError, match=says):
            fill_slots([*parse_methods(other), small()])
    with pytest.raises(MethodError, match="forms its queries after the turn"):
        fill_slots([ls.Coca(form="slack"), small(positions="selected")])
    q, k, v = make(20)
    with pytest.raises(MethodError, match="chooses keys by earlier queries"):
        attention(q[:, :, -3:], k, v, methods=[small()])
    with pytest.raises(MethodError, match="SelectMerge is causal"):
        attention(q, k, v, methods=[small()], causal=False)


def test_the_card_says_that_looking_ahead_is_unsafe() -> None:
    from longspan.registry import card

    assert 'routing="lookahead", UNSAFE' in card("select_merge")
