"""GPT-J's attention in the shape that younger families have: features at q and k, the cache, then one function.

Its own forward rotates k and q in two calls, from positions and a table of its own in every layer, and calls no
attention function that could be replaced; what it calls, `_attn`, is what runs here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import Cache

from longspan.errors import FamilyError
from longspan.surgery.attention import apply_features, attend, for_cache
from longspan.surgery.site import ATTRIBUTE, Site


def forward(
    self: Any,
    hidden_states: Tensor,
    layer_past: Cache | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Stands for `GPTJAttention.forward`: hidden states `B T hidden` in and out, and the weights `B H T S`."""
    if self.config._attn_implementation != "eager":
        raise FamilyError("an extended GPT-J attends by its own eager function only: load it with eager attention")
    site: Site = getattr(self, ATTRIBUTE)
    assert site.rotary is not None
    rotation = for_cache(site.rotary(hidden_states, position_ids), layer_past)
    shape = (*hidden_states.shape[:-1], self.num_attention_heads, self.head_dim)
    query, key, value = (
        projection(hidden_states).view(shape).transpose(1, 2) for projection in (self.q_proj, self.k_proj, self.v_proj)
    )
    query, key = apply_features(query, key, self, rotation)
    if layer_past is not None:
        key, value = layer_past.update(key, value, self.layer_idx)
    output, weights = attend(self, query, key, value, attention_mask, interface=_eager, longspan=rotation)
    return self.resid_dropout(self.out_proj(output.flatten(-2))), weights


def _eager(module: nn.Module, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
    """GPT-J's own function, called as the library's attention functions are."""
    own: Any = module
    output, weights = own._attn(*tensors)
    return output.transpose(1, 2), weights
