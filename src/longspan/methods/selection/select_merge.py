"""Select and merge: groups of queries attend to the regions of the past that suit them best, and to themselves.

Formula   regions of s tokens; the first c of them attend densely. Behind, m regions of queries form a group g. Each of
          its members ranks earlier regions by mean(q) . mean(k); read rank by rank, the first c - m distinct ones are
          what the whole group sees of the past, beside its own tokens up to the query: c s keys, whatever the length.
          With local=w the last w regions before the group are always among them, with sinks=w the first w of all.
          rating="bound" ranks by sum_d max(mean(q)_d max_j k_jd, mean(q)_d min_j k_jd) over the keys j of a region;
          with follow a region ranks by its own rating or, if that is higher, right behind the region before it
Source    arXiv:2410.04211, its abstract; the steps from the first author's draft code (fisalt/MS-Attention_draft);
          the bound from Quest (arXiv:2406.10774), which asks by each query when it decodes
Differs   routing="shifted" asks the queries of group g - 1: exactly causal, so it decodes. The draft asks those of g
          itself (routing="lookahead", UNSAFE: up to m s - 1 future tokens choose what is seen, and a loss or perplexity
          measured with it says nothing; for comparisons alone, it cannot decode). The dedup is stable, the ragged last
          group is routed as the others, padding lies on the right. positions="selected" and "selected_absolute" are our
          reading of the abstract ("position encoding only on the selected tokens"), which no code shows. Ours
          too are local and sinks: in the draft no query is sure of its nearest past or of the first tokens, on which
          models that were trained densely rest. So are the choice of a rating and follow
Checked   a list-based definition in float64, written apart, with gradients; changes of later q, k and v, to the bit;
          token by token against one pass
Training  fine-tuning or from scratch; beside it a frequency method for a longer window (the authors: crd_ntk). A small
          model that was trained densely found keys at 64 times its window without any, by positions="selected",
          rating="bound" and follow, in small regions whose top x region fills the window (results/select-merge-choice)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from longspan.equation import RegionSelection
from longspan.errors import MethodError
from longspan.regions import RegionRule, Sizes, just_below


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectMerge(RegionSelection):
    """Select-and-merge attention."""

    region: int = 16
    """s: tokens of a region."""
    top: int = 512
    """c: regions that a group sees, its own among them; a multiple of merge. No longer input is attended densely."""
    merge: int = 64
    """m: regions of queries that share one choice."""
    routing: Literal["shifted", "lookahead"] = "shifted"
    """Whose queries choose: those of the group before, or the group's own as in the draft, which sees the future; not
    so with region=1 and merge=1, where each query chooses its keys one by one, at the cost of scoring them all."""
    positions: Literal["all", "selected", "selected_absolute"] = "all"
    """Turn before choosing; or choose un-rotated and turn only what was selected: at compact positions below c s,
    whatever the length, or at the original ones."""
    eligible: Literal["draft", "before_group"] = "draft"
    """What the r-th member of a group may choose: up to the r-th region of the group before, or all before its own."""
    route_heads: Literal["query", "kv"] = "query"
    """One choice for each query head, or one for all that share a key head, by their mean query."""
    rating: Literal["mean", "bound"] = "mean"
    """What a region counts by: mean(q) . mean(k), or what mean(q) . k can be at most for any k within the extremes of
    its columns: one key that fits stands out among others, where a mean loses it."""
    follow: bool = False
    """Let the region behind one that suits count as much: the group before chooses, and what its tokens match stands
    up to a group before what the group itself is to copy; a match may also lie on the last token of its region."""
    local: int = 0
    """w: regions just before a group that it sees in any case, among its c - m of the past; 0 as in the draft."""
    sinks: int = 0
    """Regions at the beginning that every group sees in any case, counted among its c - m too; 0 as in the draft."""

    def check(self) -> None:
        self.sizes()

    def sizes(self) -> Sizes:
        """How a sequence is cut."""
        return Sizes(region=self.region, top=self.top, merge=self.merge, local=self.local, sinks=self.sinks)

    def rule(self) -> RegionRule:
        per_key_head = self.route_heads == "kv"
        choice = (self.routing, self.eligible, per_key_head, self.rating, self.follow)
        return RegionRule(self.sizes(), *choice, self.positions)

    def seen(self, q: Tensor, k: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        sizes, queries, keys = self.sizes(), q.shape[2], k.shape[2]
        if queries != keys and keys > sizes.front:
            raise MethodError(
                f"SelectMerge chooses keys by earlier queries: give queries of all {keys} tokens, not of {queries}"
            )
        causal = torch.arange(keys, device=q.device) <= torch.arange(keys - queries, keys, device=q.device)[:, None]
        seen = causal.repeat(*q.shape[:2], 1, 1)
        share = q.shape[1] // k.shape[1]
        for row in range(len(q)):
            # padding on the right comes after all that its queries could choose for, unless they look ahead
            length = keys if lengths is None or self.routing == "shifted" else lengths[row]
            for head in range(q.shape[1]):
                first = head // share * share
                asking = q[row, first : first + share].mean(0) if self.route_heads == "kv" else q[row, head]
                for group in range(sizes.groups(keys)):
                    start = sizes.front + group * sizes.group
                    chosen = self._chosen(asking[:length], k[row, head // share, :length], group)
                    region_of_key = torch.arange(start, device=q.device) // self.region
                    is_chosen = torch.isin(region_of_key, torch.tensor(chosen, device=q.device))
                    seen[row, head, start : start + sizes.group, :start] = is_chosen
        return seen

    def _chosen(self, q: Tensor, k: Tensor, group: int) -> list[int]:
        """The regions that a group attends to in any case, then those by rank, for one head: q and k are `T D`."""
        begin = self.top + group * self.merge
        rankings = []
        for region in range(begin, begin + self.merge):
            router = region if self.routing == "lookahead" else region - self.merge
            candidates = begin if self.eligible == "before_group" else region - self.merge + 1
            asked = self._tokens(q, router)
            if len(asked):
                far = range(self.sinks, min(candidates, begin - self.local))
                scores = {j: self._rated(asked.mean(0), k, j) for j in far}
                rankings.append(sorted(far, key=lambda j: -scores[j]))
        by_rank = [ranking[r] for r in range(begin) for ranking in rankings if r < len(ranking)]
        certain = [*range(self.sinks), *range(begin - self.local, begin)]
        return list(dict.fromkeys([*certain, *by_rank]))[: self.top - self.merge]

    def _rated(self, asked: Tensor, k: Tensor, region: int) -> float:
        """How well a region suits a query `D`."""
        own = self._fit(asked, self._tokens(k, region))
        if not self.follow or region == 0:
            return own.item()
        before = self._fit(asked, self._tokens(k, region - 1))
        return torch.maximum(own, just_below(before)).item()

    def _fit(self, asked: Tensor, keys: Tensor) -> Tensor:
        """How well keys `s D` suit a query."""
        if self.rating == "mean":
            return asked @ keys.mean(0)
        return torch.maximum(asked * keys.amax(0), asked * keys.amin(0)).sum()

    def _tokens(self, x: Tensor, region: int) -> Tensor:
        return x[region * self.region : (region + 1) * self.region]
