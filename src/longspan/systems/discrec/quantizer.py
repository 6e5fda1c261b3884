"""RQ-VAE: a vector becomes L codes, each the nearest to what the codes before have left over.

Formula   r_1 = encoder(x);  c_l = argmin_c |r_l - C_l[c]|;  r_{l+1} = r_l - C_l[c_l];  x' = decoder(sum_l C_l[c_l])
          loss = |x - x'|^2 + mean_l ( |C_l[c_l] - sg(r_l)|^2 + beta |sg(C_l[c_l]) - r_l|^2 ), squares averaged
Source    arXiv:2107.03312 (residual VQ), as in the tokenizers of TIGER and LETTER; the authors' code for 2506.15576
Differs   nothing known: the straight-through output of each level is taken off, so that only the first level's
          commitment reaches the encoder, as there
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

SINKHORN_EPSILON, SINKHORN_ROUNDS = 0.003, 50


class ResidualQuantizer(nn.Module):
    """Encoder, codebooks and decoder."""

    def __init__(self, width: int, hidden: Sequence[int], code_width: int, levels: int, codes: int) -> None:
        super().__init__()
        sizes = [width, *hidden, code_width]
        self.encoder, self.decoder = _mlp(sizes), _mlp(sizes[::-1])
        self.codebooks = nn.Parameter(torch.empty(levels, codes, code_width))

    def forward(self, x: Float[Tensor, "B D"], beta: float) -> Tensor:
        """The loss of a batch; the last level's codes are spread evenly over it by Sinkhorn."""
        residual = z = self.encoder(x)
        quantized, losses = torch.zeros_like(z), []
        for level, codebook in enumerate(self.codebooks):
            distances = squared_distances(residual.detach(), codebook.detach())
            last = level == len(self.codebooks) - 1
            chosen = codebook[(sinkhorn(distances) if last else -distances).argmax(-1)]
            commitment = functional.mse_loss(residual, chosen.detach())
            losses.append(functional.mse_loss(chosen, residual.detach()) + beta * commitment)
            straight_through = residual + (chosen - residual).detach()
            residual, quantized = residual - straight_through, quantized + straight_through
        return functional.mse_loss(self.decoder(quantized), x) + torch.stack(losses).mean()

    @torch.no_grad()
    def assign(self, x: Float[Tensor, "B D"]) -> tuple[Int64[Tensor, "B L"], Float[Tensor, "B L+1 d"]]:
        """Nearest codes on all levels, and what was left before each level and after the last."""
        residuals, codes = [self.encoder(x)], []
        for codebook in self.codebooks:
            codes.append(squared_distances(residuals[-1], codebook).argmin(-1))
            residuals.append(residuals[-1] - codebook[codes[-1]])
        return torch.stack(codes, dim=-1), torch.stack(residuals, dim=1)


def squared_distances(x: Float[Tensor, "B d"], codebook: Float[Tensor, "C d"]) -> Float[Tensor, "B C"]:
    """Of each vector to each code."""
    return torch.cdist(x, codebook, compute_mode="donot_use_mm_for_euclid_dist").square()


@torch.no_grad()
def sinkhorn(distances: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Log-probabilities of codes that use all codes equally often: near ones are likely, float64.

    Distances are mapped to about -1 .. 1 first; then codes and vectors are evened out in turn.
    """
    lowest, highest = distances.min().double(), distances.max().double()
    middle = (lowest + highest) / 2
    plan = -(distances.double() - middle) / (highest - middle + 1e-5) / SINKHORN_EPSILON
    for _ in range(SINKHORN_ROUNDS):
        plan = plan - plan.logsumexp(0, keepdim=True)
        plan = plan - plan.logsumexp(1, keepdim=True)
    return plan


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
