"""T5 with another embedding layer, under a model_type of its own; everything behind that layer is transformers' own."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from longspan.errors import ConfigError, MethodError
from longspan.systems.discrec.embedding import BRANCHES, GATES, ItemEmbedding


@strict
class DiscRecConfig(T5Config):
    """T5's settings and those of the branch, with the sizes of the paper's code."""

    model_type = "longspan_discrec"

    vocab_size: int = 1026
    d_model: int = 128
    d_ff: int = 1024
    num_layers: int = 4
    num_heads: int = 6
    decoder_start_token_id: int | None = 0
    use_cache: bool = False
    codes_per_item: int = 4
    """L: tokens of an item."""
    codebook_size: int = 256
    """Codes of one level."""
    history: int = 20
    """Items that the encoder reads."""
    left_padding: bool = False
    """Pad a short history in front, so that EOS follows its last item; the paper's code pads between the two."""
    branch: str = "item"
    gate: str = "softmax"
    slot_positions: bool = True
    """Whether the branch knows the place of a token in its item (V)."""
    branch_heads: int = 2
    branch_width: int = 1024

    def validate_branch(self) -> None:
        """Refuse settings that do not fit together."""
        if self.branch not in BRANCHES or self.gate not in GATES:
            raise ValueError(f"branch is one of {', '.join(BRANCHES)} and gate one of {', '.join(GATES)}")


class DiscRec(T5ForConditionalGeneration):
    """T5 whose encoder and decoder look tokens up in an `ItemEmbedding`; plain T5 where `branch` is `none` (TIGER)."""

    config_class = DiscRecConfig

    def __init__(self, config: DiscRecConfig) -> None:
        super().__init__(config)
        if config.branch == "none":
            return
        if config.d_model % config.branch_heads:
            raise ConfigError(f"{config.branch_heads} heads do not divide a width of {config.d_model}: choose others")
        for stack in (self.encoder, self.decoder):
            stack.embed_tokens = ItemEmbedding(config, decoder=stack.is_decoder)
        self.post_init()

    def initialize_weights(self) -> None:
        """Give first values to what no checkpoint has given any."""
        super().initialize_weights()
        for stack in (self.encoder, self.decoder):
            if isinstance(stack.embed_tokens, ItemEmbedding):
                stack.embed_tokens.initialise()

    def set_input_embeddings(self, new_embeddings: nn.Embedding) -> None:
        """Change the table of tokens; branch and gate stay."""
        if self.config.branch == "none":
            super().set_input_embeddings(new_embeddings)
            return
        self.shared = new_embeddings
        for stack in (self.encoder, self.decoder):
            stack.embed_tokens.weight, stack.embed_tokens.num_embeddings = (
                new_embeddings.weight,
                new_embeddings.num_embeddings,
            )

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        """As T5's.

        Raises:
            MethodError: tokens to decode behind a cache: their places in the item would be lost.
        """
        past = inputs.get("past_key_values")
        if past is not None and past.get_seq_length() and inputs.get("decoder_inputs_embeds") is None:
            raise MethodError("the decoder needs the whole prefix of an item: give use_cache=False")
        return super().forward(input_ids=input_ids, **inputs)


AutoConfig.register(DiscRecConfig.model_type, DiscRecConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(DiscRecConfig, DiscRec, exist_ok=True)
