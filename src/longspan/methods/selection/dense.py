"""Dense: every query sees all that came before it again, in the place of what a model selected while it was trained.

Formula   S(i) = {j : j <= i}
Source    plain causal attention; the authors of select-and-merge (arXiv:2410.04211) and of S2 (arXiv:2309.12307) train
          with a selection and evaluate without one
Differs   it takes the place of a selection in force and changes nothing else: frequencies, features and scales stay.
          S2 needs no such switch, since it acts in training alone
Checked   the library's own model on the same weights; the float64 reference; torch's causal attention
Training  none; a model that was trained with positions="selected" knows positions up to the front only, and reads at
          those of a plain model now
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.equation import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense(Selection):
    """All that came before."""

    def seen(self, q: Tensor, k: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        queries, keys = q.shape[2], k.shape[2]
        causal = torch.arange(keys, device=q.device) <= torch.arange(keys - queries, keys, device=q.device)[:, None]
        return causal.expand(*q.shape[:2], -1, -1)
