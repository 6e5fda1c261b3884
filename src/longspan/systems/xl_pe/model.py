"""Marian, an encoder-decoder Transformer of transformers, whose encoder takes a second position for each token.

Our reading of arXiv:2004.13310, whose text was not available: "after the idea of XL-PE", not a reproduction. With
PE_abs = PE(0 .. S-1), PE_xl = PE(ranks), e the scaled embeddings and x the input of the first layer:

    x = e + PE_main,   PE_main = PE_abs,  or the fusion of both at the input:
        tanh    tanh(PE_abs U + PE_xl V)
        linear  PE_abs U + PE_xl V
        gate    g PE_xl + (1 - g) PE_abs,   g = sigmoid(w . [PE_abs ; PE_xl])
    q, k, v of the first xl_heads heads come from e + PE_xl, those of the others from e + PE_main; with xl_where="all"
    the later layers add PE_xl and PE_main to the input of their attention anew; with "first" they are plain.
    rotary: nothing is added; q and k of the first heads are turned by R(ranks), those of the others by R(0 .. S-1).

The residual stream begins as e + PE_main in every case. The decoder is Marian's own, with positions of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSeq2SeqLM, MarianConfig, MarianMTModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.marian.modeling_marian import MarianAttention, MarianEncoder, eager_attention_forward
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from longspan.equation import Slots, Window
from longspan.errors import LengthError, MethodError
from longspan.rotation import rotate_pairs
from longspan.surgery.rotary import LongspanRotary


class XlPeConfig(MarianConfig):
    """Marian's config, and what is done with cross-lingual positions."""

    model_type = "longspan_xl_pe"

    xl_fusion: str = "none"
    """How both positions are joined at the input: none (absolute ones alone), tanh, linear or gate."""
    xl_heads: int = 0
    """Encoder heads, the first ones of each layer, that read cross-lingual positions."""
    xl_where: str = "all"
    """Layers whose heads differ, if any do: first, or all, which adds positions to each layer's attention anew."""
    xl_encoding: str = "sinusoidal"
    """How the encoder's positions act: sinusoidal (added) or rotary."""

    def reads_ranks(self) -> bool:
        """Whether anything depends on cross-lingual positions."""
        return self.xl_fusion != "none" or self.xl_heads > 0


class _Streams(NamedTuple):
    """What the heads of one layer read."""

    main: Float[Tensor, "B S d"]
    xl: Float[Tensor, "B S d"] | None
    """None: all heads read `main`."""
    tables: tuple[Float[Tensor, "B H S F"], Float[Tensor, "B H S F"]] | None
    """cos and sin of each head; None where positions are added."""


class HeadAttention(MarianAttention):
    """Marian's self-attention, in which the first heads may read something else."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *, streams: _Streams, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """As in transformers, but that q, k and v are made of `streams`, and `hidden_states` are not looked at."""
        q, k, v = (self._by_head(layer, streams) for layer in (self.q_proj, self.k_proj, self.v_proj))
        if streams.tables is not None:
            q, k = (rotate_pairs(x, *streams.tables, layout="half") for x in (q, k))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout if self.training else 0.0
        output, weights = attend(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.out_proj(output.reshape(streams.main.shape)), weights

    def _by_head(self, layer: nn.Linear, streams: _Streams) -> Float[Tensor, "B H S D"]:
        main = self._heads(layer(streams.main))
        if streams.xl is None:
            return main
        # both are made in full: products of a part of the weights would round differently
        xl, count = self._heads(layer(streams.xl)), self.config.xl_heads
        return torch.cat((xl[:, :count], main[:, count:]), dim=1)

    def _heads(self, x: Float[Tensor, "B S d"]) -> Float[Tensor, "B H S D"]:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class InputFusion(nn.Module):
    """Joins both encodings at the input."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gate":
            self.gate = nn.Linear(2 * width, 1, bias=False)
        else:
            self.absolute = nn.Linear(width, width, bias=False)
            self.cross_lingual = nn.Linear(width, width, bias=False)

    def forward(self, absolute: Float[Tensor, "S d"], cross_lingual: Float[Tensor, "B S d"]) -> Float[Tensor, "B S d"]:
        """PE_main."""
        if self.kind == "gate":
            both = torch.cat((absolute.expand_as(cross_lingual), cross_lingual), dim=-1)
            return torch.lerp(absolute, cross_lingual, self.gate(both).sigmoid())
        joined = self.absolute(absolute) + self.cross_lingual(cross_lingual)
        return joined.tanh() if self.kind == "tanh" else joined


class XlPeEncoder(MarianEncoder):
    """Marian's encoder with a second position for each token."""

    def __init__(self, config: XlPeConfig) -> None:
        _check(config)
        super().__init__(config)
        for layer in self.layers:
            layer.self_attn = HeadAttention(
                config.d_model, config.encoder_attention_heads, config.attention_dropout, config=config
            )
        if config.xl_fusion != "none":
            self.fusion = InputFusion(config.d_model, config.xl_fusion)
        if config.xl_encoding == "rotary":
            longest, head_dim = config.max_position_embeddings, config.d_model // config.encoder_attention_heads
            window = Window(rotary_dim=head_dim, original_length=longest, target_length=longest)
            self.rotary = LongspanRotary(Slots(), window)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Int[Tensor, "B S"] | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Float[Tensor, "B S d"] | None = None,
        xl_positions: Int[Tensor, "B S"] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """As in transformers, with the rank of each token.

        Raises:
            MethodError: ranks are needed and were not given.
            LengthError: the sentence is longer than the model's window.
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids) * self.embed_scale
        self._check_inputs(inputs_embeds, xl_positions)
        # all streams lose the same elements: with ranks 0 .. S-1 they are one and the same in training as well
        keep = functional.dropout(torch.ones_like(inputs_embeds), p=self.dropout, training=self.training)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask)
        if self.config.xl_encoding == "rotary":
            hidden = inputs_embeds * keep
            tables = self._tables(hidden, xl_positions)
            for layer in self.layers:
                hidden = layer(hidden, mask, streams=_Streams(hidden, None, tables), **kwargs)
            return BaseModelOutput(last_hidden_state=hidden)
        main, xl = self._encodings(inputs_embeds, xl_positions)
        hidden = (inputs_embeds + main) * keep
        first = None if xl is None else (inputs_embeds + xl) * keep
        for number, layer in enumerate(self.layers):
            if number == 0:
                streams = _Streams(hidden, first, None)
            elif self.config.xl_where == "all":
                streams = _Streams(hidden + main, None if xl is None else hidden + xl, None)
            else:
                streams = _Streams(hidden, None, None)
            hidden = layer(hidden, mask, streams=streams, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden)

    def _check_inputs(self, embeds: Tensor, ranks: Tensor | None) -> None:
        length, longest = embeds.shape[1], self.config.max_position_embeddings
        if length > longest:
            raise LengthError(f"a sentence of {length} tokens does not fit the model's {longest} positions: shorten it")
        if ranks is None and self.config.reads_ranks():
            raise MethodError("the model reads cross-lingual positions: give the rank of each token as xl_positions")

    def _encodings(self, embeds: Tensor, ranks: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """PE_main, and PE_xl where heads read it."""
        absolute = self.embed_positions(embeds.shape[:-1])
        if not self.config.reads_ranks():
            return absolute, None
        cross_lingual = self.embed_positions(embeds.shape[:-1], position_ids=ranks)
        main = self.fusion(absolute, cross_lingual) if self.config.xl_fusion != "none" else absolute
        return main, cross_lingual if self.config.xl_heads else None

    def _tables(self, hidden: Tensor, ranks: Tensor | None) -> tuple[Tensor, Tensor]:
        """cos and sin of each head: the library's rotary module at ranks, and at places."""
        batch, length, _ = hidden.shape
        places = torch.arange(length, device=hidden.device).expand(batch, -1)
        heads, count = self.config.encoder_attention_heads, self.config.xl_heads
        turned = [self.rotary(hidden, positions) for positions in ([] if ranks is None else [ranks]) + [places]]
        by_head = [turned[0]] * count + [turned[-1]] * (heads - count)
        cos, sin = (torch.stack([getattr(one, name) for one in by_head], dim=1) for name in ("cos", "sin"))
        return cos, sin


class XlPeModel(MarianMTModel):
    """Translates with cross-lingual positions in its encoder; generates, saves and loads as any model."""

    config_class = XlPeConfig

    def __init__(self, config: XlPeConfig) -> None:
        super().__init__(config)
        self.model.encoder = XlPeEncoder(config)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "B S"] | None = None,
        attention_mask: Tensor | None = None,
        xl_positions: Int[Tensor, "B S"] | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers; the ranks go to the encoder and nowhere else. Errors as `XlPeEncoder.forward`."""
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(
                input_ids=input_ids, attention_mask=attention_mask, xl_positions=xl_positions
            )
        return super().forward(attention_mask=attention_mask, encoder_outputs=encoder_outputs, **kwargs)


_CHOICES = {
    "xl_fusion": ("none", "tanh", "linear", "gate"),
    "xl_where": ("first", "all"),
    "xl_encoding": ("sinusoidal", "rotary"),
}


def _check(config: XlPeConfig) -> None:
    """Refuse settings that do not exist or have no effect.

    Raises:
        MethodError: in one line, which and why.
    """
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise MethodError(f"{name} must be one of {', '.join(choices)}, not '{getattr(config, name)}'")
    if not 0 <= config.xl_heads <= config.encoder_attention_heads:
        raise MethodError(f"xl_heads must be from 0 to {config.encoder_attention_heads}, not {config.xl_heads}")
    if config.xl_encoding == "rotary" and config.xl_fusion != "none":
        raise MethodError("rotary positions are not added at the input: set xl_fusion to none")


AutoConfig.register(XlPeConfig.model_type, XlPeConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(XlPeConfig, XlPeModel, exist_ok=True)
