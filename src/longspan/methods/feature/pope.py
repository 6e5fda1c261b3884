"""PoPE: polar coordinates; q and k give magnitudes only, positions and a learned phase give the angles.

Formula   score(m,n) = SUM_c g(q_c) g(k_c) cos((m-n) omega_c - delta_c) / sqrt(D), omega_c = base^(-c/F),
          delta in [-2 pi, 0]
Source    arXiv:2509.10534; third-party code lucidrains/PoPE-pytorch
Differs   the nearest relative of exact CoCA: both start at no content angle. CoCA squares a pair of q and gates a mean
          of k; PoPE passes single elements of both through softplus, has F = D frequencies instead of D/2, and learns
          a phase for each key head and frequency. Its q and k are twice as wide for the kernel. The phase is not
          clamped as in that code, where one that starts at 0 and steps above it never gets a gradient again (69 % of
          them after 40 steps of AdamW): the cosine has period 2 pi, so the range [-2 pi, 0] is every angle there is.
          width="half" is ours: softplus of the mean of each pair, F = D/2, which costs what RoPE costs
Checked   the sum written out; the published feature map; shift invariance
Training  from scratch
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from longspan.equation import Feature, wide
from longspan.methods.feature.coca import GATES, tied
from longspan.rotation import Layout, join_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class PoPE(Feature):
    """Polar position embedding."""

    width: Literal["full", "half"] = "full"
    """Frequencies per head: as many as rotated elements (the paper), or one for each pair."""
    gate: Literal["softplus", "relu"] = "softplus"
    """What makes magnitudes of the elements."""
    phase: bool = True
    """Learn delta, starting at 0; without it the score is largest at distance 0."""

    def rotary_dim(self, rotary_dim: int) -> int:
        return 2 * rotary_dim if self.width == "full" else rotary_dim

    def parameters(self, key_heads: int, rotary_dim: int) -> dict[str, Tensor]:
        return {"phase": torch.zeros(key_heads, self.rotary_dim(rotary_dim) // 2)} if self.phase else {}

    def phi(self, q: Tensor, layout: Layout) -> Tensor:
        # softplus needs float32: in bf16 it rounds away the tail that tells small magnitudes apart
        return GATES[self.gate](wide(q) if self.width == "full" else tied(wide(q), layout))

    def psi(self, k: Tensor, layout: Layout, parameters: Mapping[str, Tensor]) -> Tensor:
        magnitude = self.phi(k, layout)
        if not self.phase:
            return magnitude
        delta = parameters["phase"].unsqueeze(-2)
        return join_pairs(magnitude * delta.cos(), magnitude * delta.sin(), layout)
