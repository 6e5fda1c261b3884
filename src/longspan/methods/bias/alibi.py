"""ALiBi: no rotation; each head takes off a fixed amount per token of distance.

Formula   b[i,j] = -m_h (p_i - p_j); m_h = 2^(-8h/H) for H a power of two, else the slopes of the next lower power P,
          then every second slope of 2P
Source    arXiv:2108.12409 sec. 3; official code ofirpress/attention_with_linear_biases
Differs   that code adds +m_h j: equal after softmax. Here the bias is float32 and built in blocks of queries, so that
          long inputs neither round distances nor hold an N x N tensor
Checked   transformers' Bloom bias; slopes of 4, 8 and 12 heads by hand
Training  from scratch; it fills the frequency slot as well (no pair turns), so no RoPE scaling goes with it
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Bias, Frequency, Window


def slopes(heads: int) -> list[float]:
    """m_h of each head, steepest first within each series."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return first if power == heads else first + slopes(2 * power)[0::2][: heads - power]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alibi(Frequency, Bias):
    """Attention with linear biases."""

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        return torch.zeros_like(window.omega)

    def bias(self, heads: int, distance: Tensor) -> Tensor:
        slope = torch.tensor(slopes(heads), dtype=torch.float32, device=distance.device)
        return -slope[:, None, None] * distance.float().unsqueeze(-3)
