"""Models whose answers are known beforehand, by which the evaluators themselves are checked.

They have the surface that evaluation uses of a transformers model (the decoder, the output embeddings, `generate`) and
no skill: they are told the prompts. The oracle gives every right answer, the blind model finds all tokens equally
likely, and one with a window gives the right answer where all that it needs lies within its window, else a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from longspan.evaluate.task import Sample

_SURE = 30.0
"""Logit of the token that comes next, over 0 for all others."""


class _Teller(nn.Module):
    """A decoder whose hidden state is the logits of the answer that it was told."""

    def __init__(self, vocab_size: int, end: int, answers: dict[tuple[int, ...], list[int]]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, 1)  # transformers looks for it beside the head
        self.vocab_size, self.end, self.answers = vocab_size, end, answers
        self.lengths = sorted({len(prompt) for prompt in answers})

    def get_decoder(self) -> _Teller:
        return self

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutputWithPast:
        hidden = torch.zeros(*input_ids.shape, self.vocab_size)
        for row, tokens in enumerate(input_ids.tolist()):
            for length in self.lengths:
                for place, token in enumerate(self._said(tuple(tokens[:length])), start=length - 1):
                    if place < len(tokens):
                        hidden[row, place, token] = _SURE
        return BaseModelOutputWithPast(last_hidden_state=hidden)

    def _said(self, prompt: tuple[int, ...]) -> list[int]:
        answer = self.answers.get(prompt)
        return [] if answer is None else [*answer, self.end]


def known_model(
    samples: Iterable[Sample], vocab_size: int, *, bos: int | None, end: int, window: int | None = None
) -> PreTrainedModel:
    """A model that knows the answers to `samples`; none of them makes it blind.

    Args:
        end: the token that ends a text; it follows every answer, and stands for a wrong one.
        window: tokens before the answer that it sees; None: all.
    """
    answers = {}
    for sample in samples:
        sees = window is None or sample.distance is None or sample.distance <= window
        answers[tuple(sample.prompt_ids)] = sample.answer_ids if sees else []
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=bos,
        eos_token_id=end,
        max_position_embeddings=1 << 30,  # transformers warns of longer answers
    )
    model = LlamaForCausalLM(config)
    model.model = _Teller(vocab_size, end, answers)
    model.lm_head = nn.Linear(vocab_size, vocab_size, bias=False)
    nn.init.eye_(model.lm_head.weight)
    model.generation_config.use_cache = False
    return model.eval()
