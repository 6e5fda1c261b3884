"""Beam search over the tree of items: what a model would have a user take next.

Formula   score = sum of log-probabilities over the whole vocabulary, of L codes and EOS; only items are followed
Source    arXiv:2506.15576, the authors' code: beam 20 under a prefix tree
Differs   T5 keeps its keys and values, and those of a history once for all its beams; the embedding of the decoder is
          made of the whole prefix each time, so every token has its true position; the same as without, to rounding
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from longspan.systems.discrec.codes import EOS, FIRST, PAD
from longspan.systems.discrec.model import DiscRec
from longspan.systems.discrec.trie import Trie


@torch.inference_mode()
def beam_search(
    model: DiscRec, tokens: Int64[Tensor, "B S"], trie: Trie, beams: int = 20
) -> tuple[Int64[Tensor, "B W"], Float[Tensor, "B W"]]:
    """The groups of items with the highest scores, best first, and their scores.

    Where there are fewer than `beams` groups the rest is -1, at a score of minus infinity.
    """
    search = _Search(model, tokens, trie)
    for level in range(trie.levels):
        search.widen(level, beams)
    scores = search.scores + search.next_token()[..., EOS]
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    groups = search.nodes.gather(1, order).masked_fill(scores.isneginf(), -1)
    missing = beams - groups.shape[1]
    if missing > 0:
        groups = torch.nn.functional.pad(groups, (0, missing), value=-1)
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    return groups, scores


class _Search:
    """Prefixes of W beams a row: their nodes, their scores, and what T5 remembers of them."""

    def __init__(self, model: DiscRec, tokens: Tensor, trie: Trie) -> None:
        self.model, self.trie = model, trie
        self.seen = tokens != PAD
        self.encoded = model.encoder(input_ids=tokens, attention_mask=self.seen.long()).last_hidden_state
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.prefixes = tokens.new_full((len(tokens), 1, 1), PAD)  # B W n
        self.nodes = tokens.new_zeros(len(tokens), 1)
        self.scores = torch.zeros(len(tokens), 1, device=tokens.device)

    def next_token(self) -> Float[Tensor, "B W V"]:
        """Log-probabilities of what follows each prefix."""
        width = self.prefixes.shape[1]
        embedded = self.model.decoder.embed_tokens(self.prefixes.flatten(0, 1))
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded.repeat_interleave(width, dim=0)),
            attention_mask=self.seen.long().repeat_interleave(width, dim=0),
            decoder_inputs_embeds=embedded[:, -1:],
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.logits[:, -1].float().log_softmax(-1).unflatten(0, (-1, width))

    def widen(self, level: int, beams: int) -> None:
        """Take the best prefixes that are one code longer."""
        children = self.trie.step(self.nodes)
        codes = self.next_token().narrow(-1, FIRST + level * self.trie.codebook_size, self.trie.codebook_size)
        scores = (self.scores[..., None] + codes).masked_fill(children < 0, -torch.inf)
        kept, place = scores.flatten(1).topk(min(beams, scores.shape[1] * scores.shape[2]), dim=-1)
        parent, code = place // self.trie.codebook_size, place % self.trie.codebook_size
        self.scores, self.nodes = kept, children.flatten(1).gather(1, place)
        before = self.prefixes.gather(1, parent[..., None].expand(-1, -1, self.prefixes.shape[2]))
        token = code + FIRST + level * self.trie.codebook_size
        self._reorder(parent)
        self.prefixes = torch.cat([before, token[..., None]], dim=-1)

    def _reorder(self, parent: Int64[Tensor, "B W"]) -> None:
        """Have T5 remember what belongs to the beams that were kept."""
        width = self.prefixes.shape[1]
        rows = (torch.arange(len(parent), device=parent.device)[:, None] * width + parent).flatten()
        self.cache.self_attention_cache.reorder_cache(rows)
        if parent.shape[1] != width:  # else each row of the cache belongs to the same user as before
            self.cache.cross_attention_cache.reorder_cache(rows)
