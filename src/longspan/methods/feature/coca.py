"""CoCA: make q and k collinear in each pair, so that RoPE starts at angle zero.

Formula   score(m,n) = SUM_j t_nj |q_mj|^2 cos((m-n) omega_j) / sqrt(D), t = gate((k1 + k2) / 2), |q_j|^2 = q1^2 + q2^2
Source    arXiv:2309.08646 eq. 4-9, 17 (exact), 10 (slack); code codefuse-ai/Collinear-Constrained-Attention
Differs   form="exact" is that formula as a feature map, phi = [|q_j|^2, 0], psi = [t_j, 0]: an ordinary dot product
          for any kernel. The released code and the paper's main tables are form="slack", q * R(q) against R([t, t]):
          neither collinear nor relative. form="strict" ties the halves of q, where both agree. gate="softplus" is ours,
          as is the treatment of partial rotary (the part of a head that does not rotate stays a plain product), and
          projection="half": the mean of k1 and k2 is linear, so the rows of a pair may as well be one row, drawn with
          a standard deviation smaller by sqrt(2); the same function, another path of training
Checked   the literal definition (the key of query m at n is q_m * t_n, both rotated); worked numbers; the released
          einsum
Training  from scratch, or conversion of a trained model; not training-free
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from longspan.equation import Feature, wide
from longspan.rotation import Layout, Magnitudes, Rotate, join_pairs, split_pairs

GATES: dict[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "softplus": functional.softplus}


def tied(x: Tensor, layout: Layout) -> Tensor:
    """Mean of the two members of each pair: `... R` -> `... F`."""
    first, second = split_pairs(x, layout)
    return (first + second) * 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Coca(Feature):
    """Collinear Constrained Attention."""

    form: Literal["exact", "slack", "strict"] = "exact"
    """The formula itself; what the authors released; or the formula with the two halves of q tied."""
    gate: Literal["relu", "softplus"] = "relu"
    """What keeps t from being negative, which would be an initial angle of pi."""
    projection: Literal["full", "half"] = "full"
    """Of a model that is trained from scratch: half makes t itself, from half the rows of the key projection."""

    def phi(self, q: Tensor, layout: Layout) -> Tensor:
        # squares are made in float32 and stay there until they are rotated: bf16 ones double the error of the logits
        first, second = (tied(wide(q), layout),) * 2 if self.form == "strict" else split_pairs(wide(q), layout)
        return first * first + second * second

    def psi(self, k: Tensor, layout: Layout, parameters: Mapping[str, Tensor]) -> Tensor:
        t = GATES[self.gate](tied(wide(k), layout))
        return join_pairs(t, t, layout) if self.form == "slack" else t

    def query(self, q: Tensor, rotate: Rotate, layout: Layout) -> Tensor:
        return q * rotate(q) if self.form == "slack" else rotate(self.phi(q, layout))

    def turns_last(self) -> bool:
        return self.form != "slack"

    def halves_keys(self) -> bool:
        return self.projection == "half"

    def magnitudes(self) -> Magnitudes | None:
        # A class that is derived from this one may make other maps: it has to name them itself.
        return Magnitudes("square", self.gate) if self.form == "exact" and type(self) is Coca else None
