"""The translator against transformers' own Marian, the library's float64 reference, and properties of the formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, MarianConfig, MarianMTModel

from longspan.equation import Window
from longspan.errors import LengthError, MethodError
from longspan.reference import reference_attention
from longspan.systems.xl_pe.model import HeadAttention, XlPeConfig, XlPeModel, _Streams
from tolerances import TOLERANCE, distance

PAD, HEADS, LENGTH = 2, 4, 7
SIZE: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "forced_eos_token_id": 1,
    "pad_token_id": PAD,
    "decoder_start_token_id": PAD,
    "scale_embedding": True,
    "init_std": 0.3,  # wide, so that a wrong position shows
}
PLACES = torch.arange(LENGTH)
CYCLE = torch.tensor([2, 0, 1, 3, 5, 6, 4])


def make(stock: bool = False, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = MarianMTModel(MarianConfig(**SIZE)) if stock else XlPeModel(XlPeConfig(**SIZE, **settings))
    return model.eval()


def alike(other: Any, **settings: Any) -> XlPeModel:
    """A model with the weights of `other`, and weights of its own where that has none."""
    model = make(**settings)
    model.load_state_dict(other.state_dict(), strict=False)
    return model


def inputs(ranks: Tensor | None) -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(3, 40, (2, LENGTH))
    ids[1, 5:] = PAD
    batch = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "decoder_input_ids": torch.randint(3, 40, (2, 4))}
    return batch if ranks is None else {**batch, "xl_positions": ranks.expand(2, -1)}


@torch.no_grad()
def logits(model: Any, ranks: Tensor | None) -> Tensor:
    return model(**inputs(ranks)).logits


def test_without_cross_lingual_positions_it_is_marian_bit_for_bit() -> None:
    stock = make(stock=True)
    assert torch.equal(logits(alike(stock, xl_where="first"), None), logits(stock, None))


@pytest.mark.parametrize(
    ("settings", "baseline"),
    [
        ({"xl_heads": 2, "xl_where": "first"}, {"xl_where": "first"}),
        ({"xl_heads": 2}, {}),
        ({"xl_heads": HEADS}, {}),
        ({"xl_heads": 2, "xl_encoding": "rotary"}, {"xl_encoding": "rotary"}),
        ({"xl_fusion": "gate"}, {}),
    ],
)
def test_ranks_that_are_the_places_change_no_bit_and_others_do(settings: Any, baseline: Any) -> None:
    plain = make(**baseline)
    model = alike(plain, **settings)
    expected = logits(plain, None)
    assert torch.equal(logits(model, PLACES), expected)
    assert distance(logits(model, CYCLE), expected) > 0.01


def test_ranks_that_are_the_places_change_no_bit_in_training_either() -> None:
    plain = make(dropout=0.3)
    model = alike(plain, xl_heads=2, dropout=0.3)
    found = []
    for one, ranks in ((plain, None), (model, PLACES)):
        torch.manual_seed(5)
        found.append(logits(one.train(), ranks))
    assert torch.equal(*found)


def test_a_linear_fusion_begun_at_identity_and_zero_is_the_baseline() -> None:
    plain = make()
    model = alike(plain, xl_fusion="linear")
    with torch.no_grad():
        model.model.encoder.fusion.absolute.weight.copy_(torch.eye(32))
        model.model.encoder.fusion.cross_lingual.weight.zero_()
    assert torch.equal(logits(model, CYCLE), logits(plain, None))


def test_both_is_the_input_fusion_and_the_heads() -> None:
    fused = make(xl_fusion="tanh")
    both = alike(fused, xl_fusion="tanh", xl_heads=2)
    plain = alike(fused, xl_heads=2)
    assert distance(logits(both, CYCLE), logits(fused, CYCLE)) > 0.01
    assert distance(logits(both, CYCLE), logits(plain, CYCLE)) > 0.01


@torch.no_grad()
def test_rotary_heads_are_the_equation_with_ranks_as_positions() -> None:
    model = make(xl_heads=1, xl_encoding="rotary")
    encoder = model.get_encoder()
    attention: HeadAttention = encoder.layers[0].self_attn
    attention.out_proj.weight.copy_(torch.eye(32))
    attention.out_proj.bias.zero_()
    hidden, ranks = torch.randn(1, LENGTH, 32), CYCLE[None]
    found, _ = attention(hidden, streams=_Streams(hidden, None, encoder._tables(hidden, ranks)))
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (layer(hidden).unflatten(-1, (HEADS, 8)).transpose(1, 2) for layer in layers)
    window = Window(rotary_dim=8, original_length=16, target_length=16)
    heads = [
        reference_attention(
            *(x[:, head : head + 1] for x in (q, k, v)),
            window=window,
            causal=False,
            key_positions=ranks if head == 0 else PLACES[None],
        )
        for head in range(HEADS)
    ]
    assert distance(found, torch.cat(heads, dim=1).transpose(1, 2).flatten(2)) < TOLERANCE[torch.float32]


@torch.no_grad()
def test_tokens_permuted_with_their_ranks_are_encoded_alike_where_all_heads_read_ranks() -> None:
    encoder = make(xl_heads=HEADS, xl_encoding="rotary").get_encoder()
    ids = torch.randint(3, 40, (1, LENGTH))
    moved = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    before = encoder(input_ids=ids, xl_positions=CYCLE[None]).last_hidden_state
    after = encoder(input_ids=ids[:, moved], xl_positions=CYCLE[None, moved]).last_hidden_state
    assert distance(after, before[:, moved]) < TOLERANCE[torch.float32]


@torch.no_grad()
def test_scores_of_the_first_layer_move_with_tokens_and_ranks_where_positions_are_added() -> None:
    model = make(xl_heads=HEADS)
    model.set_attn_implementation("eager")
    encoder, ids = model.get_encoder(), torch.randint(3, 40, (1, LENGTH))
    moved = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    before, after = (
        encoder(input_ids=ids[:, index], xl_positions=CYCLE[None, index], output_attentions=True).attentions[0]
        for index in (PLACES, moved)
    )
    assert distance(after, before[:, :, moved][..., moved]) < TOLERANCE[torch.float32]


@torch.no_grad()
def test_the_decoder_sees_no_rank() -> None:
    model = make(xl_heads=2)
    batch = inputs(PLACES)
    encoded = model.get_encoder()(**{name: batch[name] for name in ("input_ids", "attention_mask", "xl_positions")})
    found = [
        model(**{**batch, "xl_positions": ranks[None].expand(2, -1)}, encoder_outputs=encoded).logits
        for ranks in (PLACES, CYCLE)
    ]
    assert torch.equal(*found)


@torch.no_grad()
def test_generation_reads_the_ranks_and_a_saved_model_gives_the_same(tmp_path: Path) -> None:
    model = make(xl_fusion="tanh", xl_heads=2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, local_files_only=True).eval()
    assert loaded.config.xl_fusion == "tanh"
    assert torch.equal(logits(loaded, CYCLE), logits(model, CYCLE))
    assert not torch.equal(logits(loaded, CYCLE), logits(model, PLACES))
    source = {name: value for name, value in inputs(CYCLE).items() if not name.startswith("decoder")}
    outputs = [one.generate(**source, num_beams=2, max_length=8) for one in (model, loaded)]
    assert torch.equal(*outputs)
    with pytest.raises(MethodError, match="give the rank of each token as xl_positions"):
        model.generate(source["input_ids"], num_beams=2, max_length=8)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"xl_fusion": "sum"}, "xl_fusion must be one of none, tanh, linear, gate, not 'sum'"),
        ({"xl_heads": 5}, "xl_heads must be from 0 to 4, not 5"),
        ({"xl_fusion": "tanh", "xl_encoding": "rotary"}, "rotary positions are not added at the input"),
    ],
)
def test_settings_that_do_not_exist_or_have_no_effect_are_refused(settings: Any, said: str) -> None:
    with pytest.raises(MethodError, match=said):
        make(**settings)


def test_a_sentence_beyond_the_window_is_refused() -> None:
    with pytest.raises(LengthError, match="17 tokens does not fit the model's 16 positions"):
        make()(input_ids=torch.full((1, 17), 5), decoder_input_ids=torch.tensor([[PAD]]))
