from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from longspan.errors import LengthError, MethodError
from longspan.systems.discrec.embedding import CollaborativeBranch, ItemEmbedding, SpreadNorm
from longspan.systems.discrec.model import DiscRec, DiscRecConfig

Make = Callable[..., DiscRec]


def tokens(rows: int = 2, items: int = 5, real: int = 5) -> Tensor:
    """Random rows of the tiny model: `real` items, padding, EOS."""
    generator = torch.Generator().manual_seed(1)
    row = torch.randint(2, 34, (rows, items * 4 + 1), generator=generator)
    row[:, real * 4 : -1] = 0
    row[:, -1] = 1
    return row


def branch_output(embedding: ItemEmbedding, row: Tensor) -> Tensor:
    """c of the formula."""
    e = nn.functional.embedding(row, embedding.weight)
    mixes = None if embedding.decoder else row != 0
    return embedding.branch(e, embedding._slots(row), mixes)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("branch", "count"), [("none", 4_590_976), ("item", 5_219_712), ("global", 5_219_712), ("feed_forward", 5_219_712)]
)
def test_parameters_are_those_of_the_paper_and_the_control_has_equally_many(branch: str, count: int) -> None:
    with torch.device("meta"):
        assert parameters(DiscRec(DiscRecConfig(branch=branch))) == count


def test_the_added_parts_have_314368_parameters_in_each_stack() -> None:
    with torch.device("meta"):
        added = ItemEmbedding(DiscRecConfig(), decoder=False)
    assert parameters(added) - added.weight.numel() == 314_368


def test_the_two_stacks_share_the_table_of_tokens_and_nothing_else(make_model: Make) -> None:
    model = make_model()
    encoder, decoder = dict(model.encoder.embed_tokens.named_parameters()), model.decoder.embed_tokens
    shared = [name for name, parameter in decoder.named_parameters() if parameter is encoder[name]]
    assert shared == ["weight"]
    assert model.lm_head.weight is encoder["weight"]


def test_the_norm_divides_by_the_spread_plus_eps_outside_the_root() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 1e-7]], dtype=torch.float64)
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True).sqrt() + 1e-8)
    norm = SpreadNorm(4).double()
    torch.testing.assert_close(norm(x), expected)
    usual = nn.LayerNorm(4, eps=1e-8).double()(x)
    torch.testing.assert_close(norm(x)[0], usual[0], atol=1e-6, rtol=0)
    assert (norm(x)[1] - usual[1]).abs().max() > 0.5


def test_the_branch_is_the_formula_written_out(make_model: Make) -> None:
    embedding = make_model().encoder.embed_tokens
    branch, row = embedding.branch, tokens(1)
    e = embedding.weight[row[0]].detach()
    place = [t % 4 + 1 for t in range(20)] + [5]
    c = branch.norm(e + branch.slots.weight[place])
    a = c.clone()
    for start, stop in [(0, 4), (4, 8), (8, 12), (12, 16), (16, 21)]:
        q, k, v = (linear(c[start:stop]) for linear in (branch.mixer.q, branch.mixer.k, branch.mixer.v))
        for head in (slice(0, 8), slice(8, 16)):
            a[start:stop, head] += (q[:, head] @ k[:, head].T / 8**0.5).softmax(-1) @ v[:, head]
    f = branch.feed_forward_norm(a)
    c = f + branch.outer(branch.inner(f).relu())
    g = torch.stack([e @ embedding.scores[0], c @ embedding.scores[1]], -1).softmax(-1)
    torch.testing.assert_close(embedding(row)[0], g[:, :1] * e + g[:, 1:] * c, atol=1e-5, rtol=1e-5)


def test_other_items_do_not_move_an_item_by_a_single_bit(make_model: Make) -> None:
    embedding, row = make_model().encoder.embed_tokens, tokens()
    other = row.clone()
    other[:, 8:12] = (other[:, 8:12] - 2 + 5) % 32 + 2
    before, after = branch_output(embedding, row), branch_output(embedding, other)
    same = [t for t in range(21) if not 8 <= t < 12]
    assert torch.equal(before[:, same], after[:, same])
    assert not torch.isclose(before[:, 8:12], after[:, 8:12]).all(-1).any()


def test_without_the_mask_other_items_do_move_it(make_model: Make) -> None:
    embedding, row = make_model(branch="global").encoder.embed_tokens, tokens()
    other = row.clone()
    other[:, 8] = (other[:, 8] - 1) % 32 + 2
    assert not torch.equal(branch_output(embedding, row)[:, 0], branch_output(embedding, other)[:, 0])


def test_the_feed_forward_control_hears_of_no_other_token(make_model: Make) -> None:
    embedding, row = make_model(branch="feed_forward").encoder.embed_tokens, tokens()
    other = row.clone()
    other[:, 1] = (other[:, 1] - 1) % 32 + 2
    before, after = branch_output(embedding, row), branch_output(embedding, other)
    assert torch.equal(before[:, [0, 2, 3]], after[:, [0, 2, 3]])


def test_padding_keeps_what_it_is_and_the_end_sees_the_padding_of_the_last_item(make_model: Make) -> None:
    embedding, row = make_model().encoder.embed_tokens, tokens(real=3)
    branch: CollaborativeBranch = embedding.branch
    given: list[Tensor] = []
    branch.feed_forward_norm.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    branch_output(embedding, row)
    e = nn.functional.embedding(row, embedding.weight)
    normed = branch.norm(e + branch.slots(embedding._slots(row)))
    changed = (given[0] != normed).any(-1)
    assert torch.equal(changed, row != 0)
    with torch.no_grad():
        embedding.weight[0] = embedding.weight[0].flip(0)  # the norm would take a shift out again
    end = given[0][:, -1].clone()
    branch_output(embedding, row)
    assert not torch.isclose(given[1][:, -1], end).all()


def test_a_gate_that_takes_the_semantic_side_alone_leaves_plain_t5(make_model: Make) -> None:
    model = make_model(gate="semantic")
    sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "dropout_rate")
    config = T5Config(**{name: getattr(model.config, name) for name in sizes}, decoder_start_token_id=0)
    plain = T5ForConditionalGeneration(config).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    row, labels = tokens(real=3), tokens()[:, 5:10].contiguous()
    inputs = {"input_ids": row, "attention_mask": (row != 0).long(), "labels": labels}
    assert torch.equal(model(**inputs).logits, plain(**inputs).logits)


def test_gates_mix_as_their_names_say(make_model: Make) -> None:
    row = tokens()
    outputs = {gate: make_model(gate=gate).encoder.embed_tokens for gate in ("sum", "mean", "collaborative")}
    e = nn.functional.embedding(row, outputs["sum"].weight)
    c = branch_output(outputs["sum"], row)
    torch.testing.assert_close(outputs["sum"](row), e + c)
    torch.testing.assert_close(outputs["mean"](row), (e + branch_output(outputs["mean"], row)) / 2)
    assert torch.equal(outputs["collaborative"](row), branch_output(outputs["collaborative"], row))


def test_without_slot_positions_the_order_inside_an_item_does_not_matter_to_a_token(make_model: Make) -> None:
    for positions, same in ((False, True), (True, False)):
        embedding = make_model(slot_positions=positions).encoder.embed_tokens
        row = tokens(1)
        swapped = row[:, [1, 0, *range(2, 21)]]
        before, after = branch_output(embedding, row)[:, 2], branch_output(embedding, swapped)[:, 2]
        assert torch.allclose(before, after, atol=1e-6) == same


def test_a_prefix_does_not_depend_on_later_tokens_of_the_decoder(make_model: Make) -> None:
    embedding = make_model().decoder.embed_tokens
    prefix = torch.tensor([[0, 3, 12, 20, 29]])
    whole = embedding(prefix)
    for length in range(1, 5):
        torch.testing.assert_close(embedding(prefix[:, :length]), whole[:, :length], atol=1e-6, rtol=1e-6)


def test_more_levels_than_positions_are_refused(make_model: Make) -> None:
    with pytest.raises(LengthError, match="6 tokens to decode, and an item has 4 codes"):
        make_model().decoder.embed_tokens(torch.zeros(1, 6, dtype=torch.long))


def test_a_cache_without_the_prefix_is_refused(make_model: Make) -> None:
    with pytest.raises(MethodError, match="use_cache=False"):
        make_model().generate(tokens(), use_cache=True, max_new_tokens=3)


def test_it_loads_as_what_was_saved_and_not_as_t5(make_model: Make, tmp_path: Path) -> None:
    model = make_model(gate="sum", slot_positions=False)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(loaded) is DiscRec
    assert (loaded.config.gate, loaded.config.slot_positions) == ("sum", False)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.lm_head.weight is loaded.encoder.embed_tokens.weight


def test_another_table_of_tokens_leaves_branch_and_gate_in_place(make_model: Make) -> None:
    model = make_model()
    branch = model.encoder.embed_tokens.branch
    model.resize_token_embeddings(40)
    assert model.encoder.embed_tokens.branch is branch
    assert model(input_ids=tokens(), labels=tokens()[:, :5].contiguous()).logits.shape[-1] == 40


def test_maps_begin_as_xavier_says_and_tables_with_spread_one() -> None:
    torch.manual_seed(0)
    embedding = DiscRec(DiscRecConfig()).encoder.embed_tokens
    branch = embedding.branch
    assert branch.inner.weight.std().item() == pytest.approx((2 / (128 + 1024)) ** 0.5, rel=0.05)
    assert not branch.inner.bias.any()
    assert [table.std().item() for table in (branch.slots.weight, embedding.scores)] == pytest.approx([1, 1], abs=0.15)
