"""The key projection of half width: one number for each pair that turns, which both members of the pair get.

CoCA sees the mean of the two members alone, and the mean is linear: a projection that makes the means themselves
computes the same from half the rows. Views, caches and kernels behind it see keys of full width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longspan.errors import FamilyError
from longspan.methods.feature.coca import tied
from longspan.rotation import Layout, join_pairs
from longspan.surgery.families import sites_of

KEYS = "k_proj"
"""What the projection of keys is called where it stands alone."""


class HalfKeys(nn.Module):
    """Stands where an attention module had its key projection; `t_proj` is linear, `hidden -> G (F + D - R)`."""

    def __init__(self, projection: nn.Linear, head_dim: int, rotary_dim: int, layout: Layout):
        """The two rows of each pair of `projection` become their mean.

        So it computes what `projection` did, and rows that were drawn from N(0, s) come to N(0, s / sqrt(2)), which
        leaves t as it is distributed at full width.
        """
        super().__init__()
        self.head_dim, self.rotary_dim, self.layout = head_dim, rotary_dim, layout
        width = projection.out_features // head_dim * (head_dim - rotary_dim // 2)
        bias = projection.bias is not None
        self.t_proj = nn.Linear(projection.in_features, width, bias=bias, device="meta")  # which draws no numbers
        for name, parameter in projection.named_parameters():
            half = nn.Parameter(self._halved(parameter.detach()), requires_grad=parameter.requires_grad)
            setattr(self.t_proj, name, half)

    def forward(self, hidden: Tensor) -> Tensor:
        """Keys `B T (G D)`."""
        return self._doubled(self.t_proj(hidden).unflatten(-1, (-1, self.head_dim - self.rotary_dim // 2))).flatten(-2)

    def full_width(self) -> dict[str, Tensor]:
        """Weight, and bias if there is one, of a projection of full width that computes the same."""
        width = self.head_dim - self.rotary_dim // 2
        return {
            name: _rows(self._doubled(_by_head(parameter.detach(), width)))
            for name, parameter in self.t_proj.named_parameters()
        }

    def _halved(self, rows: Tensor) -> Tensor:
        """Rows `(G D) ...` of a projection to those of its means, `(G (F + D - R)) ...`."""
        turning, passing = _by_head(rows, self.head_dim).tensor_split((self.rotary_dim,), dim=-1)
        return _rows(torch.cat((tied(turning, self.layout), passing), dim=-1))

    def _doubled(self, t: Tensor) -> Tensor:
        """`... F + D - R` to `... D`, both members of a pair alike."""
        turning, passing = t.tensor_split((self.rotary_dim // 2,), dim=-1)
        both = join_pairs(turning, turning, self.layout)
        return torch.cat((both, passing), dim=-1) if passing.shape[-1] else both


def _by_head(rows: Tensor, width: int) -> Tensor:
    """`(G W) ...` to `G ... W`."""
    return rows.unflatten(0, (-1, width)).movedim(1, -1)


def _rows(by_head: Tensor) -> Tensor:
    """The inverse of `_by_head`."""
    return by_head.movedim(-1, 1).flatten(0, 1)


def check_half(name: str, module: nn.Module) -> None:
    """Refuse an attention module, called `name`, whose key projection cannot be of half width.

    Raises:
        FamilyError: keys are made together with queries, are normalised, or come from no plain linear map.
    """
    site, wanted = sites_of(module)[1], "take coca with projection='full'"
    if "norm" in site:
        raise FamilyError(f"{name}: {site} follows the key projection, so t is no linear map of half width: {wanted}")
    if site != KEYS:
        raise FamilyError(f"{name}.{site} makes keys together with queries and values, at full width: {wanted}")
    projection = getattr(module, KEYS)
    if type(projection) is not nn.Linear and not isinstance(projection, HalfKeys):
        raise FamilyError(f"{name}.{KEYS} is a {type(projection).__name__}, which cannot be halved: {wanted}")


def full_width_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` with key projections of full width, under the names of transformers' own modules."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, HalfKeys):
            for part, rows in module.full_width().items():
                del state[f"{name}.t_proj.{part}"]
                state[f"{name}.{part}"] = rows
    return state
