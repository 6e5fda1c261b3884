"""What stands where T5 looks tokens up: the token's own embedding, the branch inside an item, and their gate.

Formula   e = Emb(x);  c0 = LN(e + V[slot]);  f0 = LN(c0 + Attn(c0));  c = f0 + Drop(W2 Drop(ReLU(W1 f0)))
          out = g_1 e + g_2 c,  g = softmax(<e, w_1>, <c, w_2>)
Source    arXiv:2506.15576, the authors' code; both residuals stand on the normed input, Attn has no output projection
Differs   nothing in this form; the other branches and gates are the ablations
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

from longspan.errors import LengthError
from longspan.kernels.dense import attention
from longspan.systems.discrec.slots import ItemGrid, ItemLocal

Branch = Literal["item", "global", "feed_forward", "none"]
"""Who mixes tokens in the branch: attention inside an item, over all tokens, nobody (a feed-forward of equally many
parameters); or no branch at all."""
Gate = Literal["softmax", "sum", "mean", "semantic", "collaborative"]
"""How e and c come together; `semantic` is e alone, `collaborative` c alone."""
BRANCHES, GATES = get_args(Branch), get_args(Gate)


class SpreadNorm(nn.Module):
    """Layer norm whose eps is added to the standard deviation (of the population), outside the root."""

    def __init__(self, width: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        centred = x - x.mean(-1, keepdim=True)
        return self.weight * centred / (x.std(-1, correction=0, keepdim=True) + self.eps) + self.bias


class ItemAttention(nn.Module):
    """Attention without an output projection, through the library's own kernel and slots."""

    def __init__(self, width: int, heads: int, selection: ItemLocal | None, *, causal: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.heads, self.selection, self.causal = heads, selection, causal

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        q, k, v = (linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        methods = () if self.selection is None else (self.selection,)
        # a selection says itself who is seen; `causal` is what the kernel asks of every one
        mixed = attention(q, k, v, methods=methods, causal=self.causal or bool(methods))
        return mixed.transpose(1, 2).flatten(2)


class Alone(nn.Module):
    """A feed-forward with the parameters of `ItemAttention`, to the last one: no token hears of another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        hidden = functional.relu(self.k(functional.relu(self.q(x))))
        output: Tensor = self.v(hidden)
        return output


class CollaborativeBranch(nn.Module):
    """c of the formula above."""

    def __init__(self, config: Any, *, decoder: bool) -> None:
        super().__init__()
        width, codes = config.d_model, config.codes_per_item
        self.slots = nn.Embedding(codes + 2, width) if config.slot_positions else None
        self.norm, self.feed_forward_norm = SpreadNorm(width), SpreadNorm(width)
        self.mixer: nn.Module
        if config.branch == "feed_forward":
            self.mixer = Alone(width)
        else:
            local = ItemLocal(codes=codes, closing=True) if config.branch == "item" and not decoder else None
            self.mixer = ItemAttention(width, config.branch_heads, local, causal=decoder)
        self.inner, self.outer = nn.Linear(width, config.branch_width), nn.Linear(config.branch_width, width)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self, e: Float[Tensor, "B S D"], slots: Int64[Tensor, " S"], mixes: Bool[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S D"]:
        """Tokens that do not mix keep what they are: their weights are zero."""
        c = self.norm(e if self.slots is None else e + self.slots(slots))
        mixed = self.mixer(c)
        c = self.feed_forward_norm(c + (mixed if mixes is None else mixed * mixes[..., None]))
        hidden = self.dropout(functional.relu(self.inner(c)))
        output: Tensor = c + self.dropout(self.outer(hidden))
        return output


class ItemEmbedding(nn.Embedding):
    """T5's token table with the branch and the gate behind it. The table is shared; the rest is each stack's own."""

    def __init__(self, config: Any, *, decoder: bool) -> None:
        super().__init__(config.vocab_size, config.d_model)
        self.codes, self.decoder, self.pad = config.codes_per_item, decoder, config.pad_token_id
        self.gate: Gate = config.gate
        self.branch = CollaborativeBranch(config, decoder=decoder)
        self.scores = nn.Parameter(torch.empty(2, config.d_model)) if self.gate == "softmax" else None

    def forward(self, tokens: Int64[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """Embeddings of whole rows.

        Raises:
            LengthError: more tokens than there are positions, or no whole items.
        """
        e = super().forward(tokens)
        if self.gate == "semantic":
            return e
        mixes = None if self.decoder else tokens != self.pad
        return self._gated(e, self.branch(e, self._slots(tokens), mixes))

    def _slots(self, tokens: Tensor) -> Int64[Tensor, " S"]:
        """Rows of V: 0 the start, then the slots of an item from 1, last EOS. The decoder counts its prefix."""
        length = tokens.shape[1]
        if not self.decoder:
            return torch.from_numpy(ItemGrid(codes=self.codes, closing=True).slot(length)).to(tokens.device) + 1
        if length > self.codes + 1:
            raise LengthError(f"{length} tokens to decode, and an item has {self.codes} codes and a start: give fewer")
        return torch.arange(length, device=tokens.device)

    def _gated(self, e: Tensor, c: Tensor) -> Tensor:
        if self.gate == "softmax":
            assert self.scores is not None
            scores = torch.stack([e @ self.scores[0], c @ self.scores[1]], dim=-1)
            semantic, collaborative = scores.softmax(-1).unbind(-1)
            return semantic[..., None] * e + collaborative[..., None] * c
        if self.gate == "collaborative":
            return c
        return e + c if self.gate == "sum" else (e + c) / 2

    @torch.no_grad()
    def initialise(self) -> None:
        """Give everything but the token table its first values: Xavier normal maps without bias, tables N(0, 1)."""
        for module in self.branch.modules():
            if isinstance(module, nn.Linear):
                init.xavier_normal_(module.weight)
                init.zeros_(module.bias)
            elif isinstance(module, SpreadNorm):
                init.ones_(module.weight)
                init.zeros_(module.bias)
        if self.branch.slots is not None:
            init.normal_(self.branch.slots.weight)
        if self.scores is not None:
            init.normal_(self.scores)
