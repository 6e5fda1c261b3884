"""Select-and-merge against its definition, and against time: nothing later may move what came before."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.equation import Window
from longspan.errors import MethodError
from longspan.kernels.select_merge import pooled, select_merge_attention, select_regions
from longspan.regions import Sizes
from longspan.rotation import rotate_pairs, rotation_tables
from select_merge_definition import attention, choices
from tolerances import TOLERANCE, distance

SMALL = Sizes(region=4, top=8, merge=2)


def make(length, heads=2, key_heads=1, width=8, batch=1, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, h, length, width) for h in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def run(q, k, v, sizes, turn=None, **options):
    regions = select_regions(q, k, sizes, **options)
    return select_merge_attention(q, k, v, sizes, regions=regions, turn=turn)


def compact_turn(width):
    omega = Window(rotary_dim=width, original_length=64, target_length=64).omega

    def at(x, positions):
        return rotate_pairs(x, *rotation_tables(omega, positions, x.dtype), "half")

    return at, lambda x, first: at(x, torch.arange(first, first + x.shape[-2]))


@pytest.mark.parametrize("routing", ["shifted", "lookahead"])
@pytest.mark.parametrize(
    ("eligible", "rating", "follow"),
    [("draft", "mean", False), ("before_group", "mean", True), ("draft", "bound", False), ("draft", "bound", True)],
)
@pytest.mark.parametrize(
    ("sizes", "length"),
    [
        (SMALL, 128),
        (Sizes(region=4, top=8, merge=4), 128),
        (Sizes(region=4, top=16, merge=4), 149),
        (Sizes(region=2, top=32, merge=8), 131),
        (Sizes(region=4, top=8, merge=2, local=1), 131),
        (Sizes(region=2, top=32, merge=8, local=11, sinks=3), 131),
    ],
)
def test_equals_the_definition(sizes, length, routing, eligible, rating, follow):
    q, k, v = make(length)
    options = {"routing": routing, "eligible": eligible, "rating": rating, "follow": follow}
    chosen = choices(q, k, sizes, **options)
    assert select_regions(q, k, sizes, **options)[0, 1].tolist() == [sorted(ids) for ids in chosen[0][1]]
    torch.testing.assert_close(run(q, k, v, sizes, **options), attention(q, k, v, sizes, chosen), rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    length=st.integers(1, 150),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2)]),
    per_key_head=st.booleans(),
    local=st.integers(0, SMALL.selected),
    seed=st.integers(0, 99),
)
def test_equals_the_definition_at_any_length_and_sharing_of_heads(length, heads, per_key_head, local, seed):
    q, k, v = make(length, *heads, seed=seed)
    sizes = replace(SMALL, local=local)
    chosen = choices(q, k, sizes, per_key_head=per_key_head)
    expected = attention(q, k, v, sizes, chosen)
    torch.testing.assert_close(run(q, k, v, sizes, per_key_head=per_key_head), expected, rtol=0, atol=1e-12)


@st.composite
def cuts(draw):
    """Any way to cut a sequence, how groups choose in it, and a length that holds a few groups, odd ones too."""
    merge = draw(st.integers(1, 3))
    top = merge * draw(st.integers(2, 4))
    local = draw(st.integers(0, top - merge))
    sinks = draw(st.integers(0, top - merge - local))
    sizes = Sizes(region=draw(st.integers(1, 4)), top=top, merge=merge, local=local, sinks=sinks)
    options = {
        "routing": draw(st.sampled_from(["shifted", "lookahead"])),
        "eligible": draw(st.sampled_from(["draft", "before_group"])),
    }
    return sizes, options, draw(st.integers(1, sizes.front + 3 * sizes.group))


@settings(max_examples=25, deadline=None)
@given(cut=cuts(), batch=st.integers(1, 2), width=st.sampled_from([2, 7, 8]), seed=st.integers(0, 99))
def test_equals_the_definition_with_gradients_however_the_sequence_is_cut(cut, batch, width, seed):
    sizes, choose, length = cut
    q, k, v = (x.requires_grad_() for x in make(length, 2, 1, width=width, batch=batch, seed=seed))
    chosen = choices(q, k, sizes, **choose)
    regions = select_regions(q, k, sizes, **choose)
    assert regions.tolist() == [[[sorted(ids) for ids in head] for head in row] for row in chosen]
    fast, slow = run(q, k, v, sizes, **choose), attention(q, k, v, sizes, chosen)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    weight = torch.randn(slow.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    gradients = [torch.autograd.grad((output * weight).sum(), (q, k, v)) for output in (fast, slow)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@settings(max_examples=15, deadline=None)
@given(cut=cuts(), dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 99))
def test_lower_precision_stays_near_the_definition_with_gradients(cut, dtype, seed):
    """Both attend to the same regions: where two are almost as good, rounding decides between them."""
    sizes, choose, length = cut
    low = [x.requires_grad_() for x in make(length, dtype=dtype, seed=seed)]
    high = [x.detach().double().requires_grad_() for x in low]
    regions = select_regions(*low[:2], sizes, **choose)
    fast = select_merge_attention(*low, sizes, regions=regions)
    slow = attention(*high, sizes, regions.tolist())
    assert fast.dtype == dtype
    assert distance(fast, slow) < TOLERANCE[dtype]
    weight = torch.randn(slow.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    fast.backward(weight.to(dtype))
    slow.backward(weight.to(dtype).double())
    assert all(x.grad.dtype == dtype for x in low)
    found, expected = (torch.cat([x.grad.flatten().double() for x in side]) for side in (low, high))
    assert distance(found, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("compact", [False, True])
def test_memory_that_nobody_wrote_is_never_read(compact, monkeypatch):
    """torch fills fresh buffers with NaN here, in the forward and in the backward."""
    turn = compact_turn(8)[1] if compact else None
    weight = torch.randn(1, 2, 85, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for filled in (False, True):
        torch.use_deterministic_algorithms(filled)
        try:
            assert bool(torch.empty(3).isnan().all()) == filled or not filled
            q, k, v = (x.requires_grad_() for x in make(85))
            output = run(q, k, v, SMALL, turn=turn)
            found.append((output, *torch.autograd.grad((output * weight).sum(), (q, k, v))))
        finally:
            torch.use_deterministic_algorithms(False)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_nothing_but_local_regions_is_attention_in_a_window_that_moves_by_groups():
    sizes, (q, k, v) = replace(SMALL, local=SMALL.selected), make(123, heads=2, key_heads=2)
    places = torch.arange(123)
    first = ((places - sizes.front) // sizes.group * sizes.group + sizes.group).clamp(min=0)
    window = (places <= places[:, None]) & (places >= first[:, None])
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=window)
    torch.testing.assert_close(run(q, k, v, sizes), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("length", [1, 31, 32])
@pytest.mark.parametrize("local", [0, 5])
def test_is_dense_while_the_front_holds_everything(length, local):
    sizes, (q, k, v) = replace(SMALL, local=local), make(length)
    dense = torch.nn.functional.scaled_dot_product_attention(
        q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1), is_causal=True
    )
    torch.testing.assert_close(run(q, k, v, sizes), dense, rtol=0, atol=1e-14)


def test_the_first_token_behind_the_front_is_routed():
    assert [SMALL.groups(length) for length in (31, 32, 33, 40, 41)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("sizes", [SMALL, replace(SMALL, local=2)])
def test_gradients_equal_those_through_the_definition(sizes):
    q, k, v = (x.requires_grad_() for x in make(85, heads=4, key_heads=2))
    weight = torch.randn(1, 4, 85, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((attention(q, k, v, sizes, choices(q, k, sizes)) * weight).sum(), (q, k, v))
    found = torch.autograd.grad((run(q, k, v, sizes) * weight).sum(), (q, k, v))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_compact_positions_equal_the_definition_with_gradients():
    at, turn = compact_turn(8)
    q, k, v = (x.requires_grad_() for x in make(85, heads=4, key_heads=2))
    weight = torch.randn(1, 4, 85, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    slow = attention(q, k, v, SMALL, choices(q, k, SMALL), turn=at)
    fast = run(q, k, v, SMALL, turn=turn)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    expected = torch.autograd.grad((slow * weight).sum(), (q, k, v))
    for one, other in zip(torch.autograd.grad((fast * weight).sum(), (q, k, v)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_compact_positions_stay_below_the_front_whatever_the_length():
    highest = 0

    def turn(x, first):
        nonlocal highest
        highest = max(highest, first + x.shape[-2] - 1)
        return x

    run(*make(300), SMALL, turn=turn)
    assert highest == SMALL.front - 1


@pytest.mark.parametrize("choice", [{}, {"rating": "bound"}, {"rating": "bound", "follow": True}])
@pytest.mark.parametrize("changed", ["q", "k", "v"])
@pytest.mark.parametrize("sizes", [SMALL, replace(SMALL, local=3, sinks=1)])
def test_nothing_later_moves_an_earlier_output_by_a_bit(changed, sizes, choice):
    tensors = dict(zip("qkv", make(120), strict=True))
    before = run(**tensors, sizes=sizes, **choice)
    for t in (33, 38, 39, 40, 64, 100, 119):
        other = {**tensors, changed: tensors[changed].clone()}
        other[changed][:, :, t:] += torch.randn(other[changed][:, :, t:].shape, dtype=torch.float64)
        assert torch.equal(run(**other, sizes=sizes, **choice)[:, :, :t], before[:, :, :t])


def test_lookahead_lets_a_later_query_choose():
    """The negative control: the probe above would find a leak."""
    q, k, v = make(120)
    before = run(q, k, v, SMALL, routing="lookahead")
    leaks = []
    for t in range(41, 48):  # inside the second routed group
        other = q.clone()
        other[:, :, t] *= -20
        leaks.append((run(other, k, v, SMALL, routing="lookahead") - before)[:, :, 40:t].abs().max().item())
    assert max(leaks) > 1e-3


def test_choices_are_distinct_and_lie_before_the_group():
    q, k, _ = make(500, heads=3, key_heads=3)
    regions = select_regions(q, k, SMALL)
    assert regions.shape == (1, 3, SMALL.groups(500), SMALL.selected)
    assert (regions.diff(dim=-1) > 0).all()
    starts = SMALL.top + SMALL.merge * torch.arange(regions.shape[2])
    assert (regions < starts[:, None]).all()


def test_a_region_that_one_member_ranks_first_survives_whatever_the_others_think():
    sizes = Sizes(region=1, top=8, merge=4)
    q, k = torch.zeros(1, 1, 12, 9, dtype=torch.float64), torch.zeros(1, 1, 12, 9, dtype=torch.float64)
    k[0, 0, :, 0] = -torch.arange(12)  # all members like early regions
    k[0, 0, 4, 1] = 100.0
    q[0, 0, 4:8, 0] = 1.0
    q[0, 0, 7, 1] = 1.0  # the last router alone likes region 4, which the others rank last
    regions = select_regions(q, k, sizes, eligible="before_group")
    assert 4 in regions[0, 0, 0].tolist()
    assert regions[0, 0, 0].tolist() == [0, 1, 2, 4]


def looking_one_way():
    """Queries of 400 tokens that all look in one direction, keys that do not, and the direction."""
    q, k, _ = make(400)
    direction = torch.zeros(8, dtype=torch.float64)
    direction[0] = 30.0
    return q + direction, k, direction


def test_a_planted_region_is_chosen_by_every_later_group():
    q, k, direction = looking_one_way()
    k[:, :, 20:24] += direction
    assert (select_regions(q, k, SMALL) == 5).any(-1).all()


def test_one_key_that_fits_is_found_by_its_bound_and_lost_in_its_mean():
    """Its neighbours point the other way, so that the mean of its region is the worst of all."""
    q, k, direction = looking_one_way()
    k[:, :, 20:24] -= direction
    k[:, :, 22] += 2 * direction
    chosen = {rating: (select_regions(q, k, SMALL, rating=rating) == 5).any(-1) for rating in ("mean", "bound")}
    assert chosen["bound"].all()
    assert chosen["mean"].double().mean() < 0.1


@pytest.mark.parametrize("sizes", [SMALL, Sizes(region=4, top=8, merge=1), Sizes(region=4, top=16, merge=4)])
def test_among_regions_that_are_equally_good_the_first_are_chosen_however_long_the_input(sizes):
    q, k = torch.ones(1, 1, 3000, 4, dtype=torch.float64), torch.ones(1, 1, 3000, 4, dtype=torch.float64)
    k[:, :, 40:44] += 1
    chosen = select_regions(q, k, sizes)
    expected = sorted([10, *(region for region in range(sizes.selected) if region != 10)][: sizes.selected])
    assert (chosen[0, 0, 60 // sizes.merge :] == torch.tensor(expected)).all()
    for length in (77, 500, 2999):
        alone = select_regions(q[:, :, :length], k[:, :, :length], sizes)
        assert torch.equal(alone, chosen[:, :, : alone.shape[2]])


def test_the_region_behind_a_match_is_chosen_if_it_is_to_follow():
    """Nothing in region 6 itself suits, and region 5, all of it, does."""
    q, k, direction = looking_one_way()
    k[:, :, 20:24] += direction
    k[:, :, 24:28] -= direction
    for rating in ("mean", "bound"):
        alone, followed = (select_regions(q, k, SMALL, rating=rating, follow=follow) for follow in (False, True))
        late = slice(2, None)  # groups that may choose region 6
        assert not (alone == 6).any(-1)[:, :, late].any()
        assert ((followed == 5).any(-1) & (followed == 6).any(-1))[:, :, late].all()


@pytest.mark.parametrize("rating", ["mean", "bound"])
def test_padding_on_the_right_never_changes_a_row(rating):
    q, k, v = make(120)
    short = run(q[:, :, :77], k[:, :, :77], v[:, :, :77], SMALL, rating=rating)
    torch.testing.assert_close(run(q, k, v, SMALL, rating=rating)[:, :, :77], short, rtol=0, atol=1e-14)


@pytest.mark.parametrize("rating", ["mean", "bound"])
def test_lookahead_pools_only_what_is_no_padding(rating):
    q, k, v = make(120)
    lengths = torch.tensor([77])
    padded = [x.clone() for x in (q, k, v)]
    for x in padded:
        x[:, :, 77:] = 1e6
    regions = select_regions(padded[0], padded[1], SMALL, routing="lookahead", lengths=lengths, rating=rating)
    found = select_merge_attention(*padded, SMALL, regions=regions)[:, :, :77]
    alone = run(q[:, :, :77], k[:, :, :77], v[:, :, :77], SMALL, routing="lookahead", rating=rating)
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)


def test_heads_routed_by_their_key_head_agree_when_every_head_has_keys_of_its_own():
    q, k, v = make(200, heads=2, key_heads=2)
    assert torch.equal(run(q, k, v, SMALL), run(q, k, v, SMALL, per_key_head=True))


def test_pooling_a_ragged_end_takes_the_mean_of_what_is_there():
    x = torch.arange(6, dtype=torch.float64).view(1, 1, 6, 1)
    assert pooled(x, SMALL).flatten().tolist() == [1.5, 4.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((4, 9, 2, 0), "multiple"),
        ((4, 2, 2, 0), "larger"),
        ((0, 8, 2, 0), "at least 1"),
        ((4, 8, 2, 7), r"between 0 and the 6 regions .* \(top 8 - merge 2\)"),
        ((4, 8, 2, -1), "between 0 and"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(values, message):
    with pytest.raises(MethodError, match=message):
        Sizes(**dict(zip(("region", "top", "merge", "local"), values, strict=True)))


def test_a_choice_that_all_members_agree_on_is_ranked_deep_enough():
    """Their first ranks hold the same few regions, so the union of few ranks is too small."""
    sizes = Sizes(region=1, top=64, merge=16)
    q, k, _ = make(200)
    q = q * 1e-3 + torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chosen = choices(q, k, sizes)
    assert select_regions(q, k, sizes)[0, 1].tolist() == [sorted(ids) for ids in chosen[0][1]]


@pytest.mark.parametrize(
    "failure", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_names_the_setting_that_halves_it(failure, monkeypatch):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("longspan.kernels.groups.attend_block", fail)
    with pytest.raises(MethodError, match=r"at 120 tokens: half the top \(8\) halves the keys"):
        run(*make(120), SMALL)


@pytest.mark.gpu
def test_a_gpu_in_bfloat16_stays_near_the_definition_without_waiting_for_the_host():
    sizes = Sizes(region=16, top=32, merge=8)
    q, k, v = make(1500, heads=4, key_heads=2, width=64)
    regions = select_regions(q, k, sizes)
    weight = torch.randn(1, 4, 1500, 64, dtype=torch.float64)
    slow = [x.requires_grad_() for x in (q, k, v)]
    expected = select_merge_attention(*slow, sizes, regions=regions)
    gradients = torch.autograd.grad((expected * weight).sum(), slow)
    fast = [x.detach().to("cuda", torch.bfloat16).requires_grad_() for x in slow]
    regions, weight = regions.cuda(), weight.to("cuda", torch.bfloat16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        select_regions(*fast[:2], sizes)
        found = select_merge_attention(*fast, sizes, regions=regions)
        found_gradients = torch.autograd.grad((found * weight).sum(), fast)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip((found, *found_gradients), (expected, *gradients), strict=True):
        assert (one.cpu().double() - other).norm() < 2e-2 * other.norm()
