"""S2: what is seen, by hand; that nothing leaks, at any depth; the fast form against the definition; off when used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import longspan as ls
from conftest import make_model
from longspan.equation import Window, fill_slots
from longspan.errors import MethodError
from longspan.kernels.dense import attention
from longspan.methods.selection.s2 import S2
from longspan.reference import reference_attention
from longspan.registry import parse_methods
from tolerances import LOGITS, TOLERANCE, distance, logit_distance

WINDOW = Window(rotary_dim=8, original_length=8, target_length=32)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seen(method: S2, length: int, heads: int = 4) -> Tensor:
    q = torch.zeros(1, heads, length, 2)
    return method.seen(q, q)[0]


def test_groups_of_sixteen_tokens_by_hand() -> None:
    matrix = seen(S2(group=4), 16)
    assert not matrix.triu(1).any()
    plain, shifted = matrix[:2].unique(dim=0)[0], matrix[2:].unique(dim=0)[0]
    lengths = {"plain": [4, 4, 4, 4], "shifted": [2, 4, 4, 4, 2]}
    for found, name in ((plain, "plain"), (shifted, "shifted")):
        blocks = torch.block_diag(*(torch.ones(n, n) for n in lengths[name]))
        assert torch.equal(found, blocks.tril().bool()), name


def test_the_last_token_sees_the_first_from_the_depth_of_the_card_on() -> None:
    layer = seen(S2(group=4), 16).any(0).double()
    reached = [torch.linalg.matrix_power(layer, depth)[-1, 0] > 0 for depth in range(1, 9)]
    assert reached == [False] * 6 + [True] * 2  # 2 N / G - 1 = 7 layers


def test_the_leaky_form_sees_exactly_the_pairs_that_wrap_around() -> None:
    ahead = seen(S2(group=4, leaky=True), 16)[3].triu(1).nonzero().tolist()
    assert ahead == [[0, 14], [0, 15], [1, 14], [1, 15]]


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_the_fast_form_and_its_gradients_equal_the_reference(leaky: bool, key_heads: int) -> None:
    length = 16 if leaky else 19  # the leaky form takes whole groups only
    shapes = ((2, 4, length, 8), (2, key_heads, length, 8), (2, key_heads, length, 6))
    fast = [draw(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    slow = [x.detach().clone().requires_grad_() for x in fast]
    options = {"methods": [S2(group=4, leaky=leaky)], "window": WINDOW, "lengths": None if leaky else [length, 13]}
    found, expected = attention(*fast, **options), reference_attention(*slow, **options)
    weights = draw(*found.shape, seed=9)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert distance(found, expected) < TOLERANCE[torch.float64]
    for one, other in zip(fast, slow, strict=True):
        assert distance(one.grad, other.grad) < TOLERANCE[torch.float64]


def test_a_group_of_twice_the_length_is_full_attention_and_one_of_the_length_is_in_the_plain_half() -> None:
    q, k, v = draw(1, 4, 12, 8), draw(1, 2, 12, 8, seed=1), draw(1, 2, 12, 8, seed=2)
    full = attention(q, k, v, window=WINDOW)
    assert distance(attention(q, k, v, window=WINDOW, methods=[S2(group=24)]), full) < TOLERANCE[torch.float64]
    halved = attention(q, k, v, window=WINDOW, methods=[S2(group=12)])
    assert distance(halved[:, :2], full[:, :2]) < TOLERANCE[torch.float64]
    assert distance(halved[:, 2:], full[:, 2:]) > 0.01


def model_in_training(methods: str, family: str = "llama", **settings: object) -> torch.nn.Module:
    model = make_model(family, **settings)
    ls.extend(model, methods, target_length=64, original_length=64)
    return model.train()


def later_tokens_move_logits(model: torch.nn.Module) -> list[int]:
    """Places whose change moves a logit before them."""
    ids = torch.randint(3, 128, (1, 16), generator=torch.Generator().manual_seed(0))
    rows = ids.repeat(17, 1)
    rows[torch.arange(1, 17), torch.arange(16)] = (ids[0] + 1) % 125 + 3
    with torch.no_grad():
        logits = model(rows, use_cache=False).logits
    return [place for place in range(16) if not torch.equal(logits[place + 1, :place], logits[0, :place])]


@pytest.mark.parametrize("depth", [1, 9])
def test_no_logit_moves_with_a_later_token_and_the_leaky_form_fails_this(depth: int) -> None:
    assert later_tokens_move_logits(model_in_training("s2(group=4)", num_hidden_layers=depth)) == []
    leaky = later_tokens_move_logits(model_in_training("s2(group=4, leaky=True)", num_hidden_layers=depth))
    assert leaky == ([14, 15] if depth == 1 else list(range(1, 16)))  # from 8 layers on, every next token is seen


def test_the_first_logit_has_no_gradient_to_the_last_token() -> None:
    model = model_in_training("s2(group=4)", num_hidden_layers=9)
    embedded = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    model(inputs_embeds=embedded, use_cache=False).logits[0, 0].sum().backward()
    assert embedded.grad is not None
    assert not embedded.grad[0, 1:].any()
    assert embedded.grad[0, 0].any()


def test_in_evaluation_mode_the_model_is_that_without_it_bit_for_bit(family: str) -> None:
    model, other = make_model(family), make_model(family)
    ids = torch.randint(3, 128, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stock = model(ids, use_cache=False).logits
        ls.extend(model, "rope()+s2(group=8)")
        ls.extend(other, "rope()")
        expected = other(ids, use_cache=False).logits
        assert logit_distance(expected, stock) < LOGITS
        assert torch.equal(model(ids, use_cache=False).logits, expected)
        assert logit_distance(model.train()(ids, use_cache=False).logits, expected) > 0.01
        assert torch.equal(model.eval()(ids, use_cache=False).logits, expected)


@pytest.mark.parametrize("before", ["", "coca+", "pi+", "coca+dynamic_ntk(factor=4)+"])
def test_every_layer_attends_as_the_reference_whatever_else_is_in_force(
    before: str,
) -> None:
    methods = f"{before}s2(group=4)"
    model = make_model("llama", num_hidden_layers=1)
    ls.extend(model, methods, target_length=256)
    model.train()
    layer, found = model.base_model.layers[0].self_attn, {}
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(layer, name).register_forward_hook(lambda m, a, out, name=name: found.update({name: out}))
    layer.o_proj.register_forward_pre_hook(lambda m, a: found.update(out=a[0]))
    ids = torch.randint(3, 128, (2, 19), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(ids, use_cache=False)
    q, k, v = (found[name].unflatten(2, (-1, 8)).transpose(1, 2) for name in ("q_proj", "k_proj", "v_proj"))
    window = model.base_model.rotary_emb.window.at(19)
    expected = reference_attention(q, k, v, methods=parse_methods(methods), window=window)
    assert distance(found["out"].unflatten(2, (-1, 8)).transpose(1, 2), expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_padding_packed_documents_and_sliding_layers_limit_it_further(kernel: str) -> None:
    family = "gemma2" if kernel == "eager" else "mistral"  # Gemma 2 is eager only in transformers
    model = model_in_training("s2(group=8)", family, sliding_window=6)
    model.set_attn_implementation(kernel)
    ids = torch.randint(3, 128, (1, 20), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(28) < 20).long()[None]
    padded = torch.cat((ids, torch.zeros(1, 8, dtype=torch.long)), dim=1)
    with torch.no_grad():
        alone = model(ids, use_cache=False).logits
        beside = model(padded, attention_mask=mask, use_cache=False).logits[:, :20]
        assert logit_distance(beside, alone) < LOGITS
        # two documents in one row: the second starts a group, so it reads as it would alone
        positions = torch.cat((torch.arange(8), torch.arange(12)))[None]
        packed = model(ids, position_ids=positions, use_cache=False).logits[:, 8:]
        assert logit_distance(packed, model(ids[:, 8:], use_cache=False).logits) < LOGITS


def test_what_it_cannot_do_is_refused_with_the_reason() -> None:
    for settings in ({"group": 3}, {"group": 0}):
        with pytest.raises(MethodError, match="even number of tokens"):
            S2(**settings)
    with pytest.raises(MethodError, match="S2 and Alibi do not go together"):
        fill_slots(parse_methods("alibi+s2"))
    q = draw(1, 3, 8, 8)
    with pytest.raises(MethodError, match="halves the query heads, and 3 is odd"):
        attention(q, q, q, methods=[S2(group=4)])
    with pytest.raises(MethodError, match="S2 is causal"):
        attention(q, q, q, methods=[S2(group=4)], causal=False)
    with pytest.raises(MethodError, match="multiple of 4 tokens, not 6"):
        seen(S2(group=4, leaky=True), 6)
    model = model_in_training("s2(group=4)")
    with pytest.raises(MethodError, match=r"call model.eval\(\) before generating"):
        model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=2, do_sample=False, pad_token_id=0)


def test_a_model_trained_with_it_can_be_trained_with_it_again() -> None:
    model = make_model("llama")
    ls.extend(model, "s2(group=4)")
    assert ls.extend(model, "s2(group=8)").plan.methods == (S2(group=8),)
