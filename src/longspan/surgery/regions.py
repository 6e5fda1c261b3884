"""Attention to chosen regions in the place of the library's attention function."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from longspan.errors import MethodError
from longspan.kernels.dense import storage_order
from longspan.kernels.features import late_turn, rotate_keys
from longspan.kernels.region_attention import choose_regions, region_attention
from longspan.kernels.select_merge_decode import continued_attention, continued_regions
from longspan.regions import RegionRule
from longspan.rotation import Start
from longspan.surgery.region_cache import region_layer
from longspan.surgery.rotary import Rotation
from longspan.surgery.site import Site, seen_by_mask, without_positions

Attend = Callable[..., tuple[Tensor, Tensor | None]]
"""An attention function of the library."""


class _Tokens(NamedTuple):
    """The latest queries and all that is stored, in rows of one length."""

    query: Tensor
    routers: Tensor
    """Queries that choose, `B R W D`: the latest ones, those of earlier passes among them."""
    key: Tensor
    value: Tensor
    known: Tensor
    """Regions chosen in earlier passes."""
    omega: Tensor
    positions: Tensor | None = None
    """`B S`, where queries and keys are not turned yet."""
    tau: Tensor | None = None
    """`B T`"""

    def rows(self, rows: Sequence[int], start: int) -> _Tokens:
        """Some rows, whose first token is stored at `start`."""
        missing = max(0, start - (self.key.shape[2] - self.query.shape[2]))
        index = torch.tensor(rows, device=self.query.device)
        return _Tokens(
            self.query[index, :, missing:],
            self.routers[index],
            self.key[index, :, start:],
            self.value[index, :, start:],
            self.known[index],
            self.omega[index] if self.omega.dim() == 2 else self.omega,
            None if self.positions is None else self.positions[index, start:],
            None if self.tau is None else self.tau[index, missing:],
        )


def attend_in_regions(
    site: Site,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    interface: Attend,
    longspan: Rotation,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """`B T H V` and weights: by the library's own function while the front holds all tokens, by groups behind it."""
    rule, name = site.slots.region_rule(), type(site.slots.selection).__name__
    assert rule is not None
    if mask is not None and not isinstance(mask, Tensor):
        raise MethodError(f"{name} takes the masks of eager and sdpa attention: use one of them")
    layer = None if longspan.cache is None else region_layer(longspan.cache, module.layer_idx, name)
    if layer is not None:  # of a cache of fixed size, only what is filled
        filled = int(layer.get_seq_length())
        key, value, mask = key[:, :, :filled], value[:, :, :filled], None if mask is None else mask[..., :filled]
    tokens = _tokens(site, rule, query, key, value, longspan)
    if layer is not None and layer.queries is not None and layer.regions is not None:
        tokens = tokens._replace(routers=torch.cat((layer.queries, tokens.routers), dim=2), known=layer.regions)
    if tokens.key.shape[2] <= rule.sizes.front:
        output, weights = _dense(site, module, tokens, mask, interface, longspan, **kwargs)
        regions = tokens.known
    else:
        _check(rule, name, tokens, **kwargs)
        attend = functools.partial(_by_groups, site, rule, value.shape[-1], longspan.start, **kwargs)
        output, regions = _rows_apart(tokens, None if mask is None else _padding(mask, tokens, name), rule, attend)
        output, weights = output.transpose(1, 2), None
    if layer is not None:
        layer.remember(tokens.routers, regions, rule.sizes)
    return output[..., : value.shape[-1]], weights


def rows_of_mask(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, front: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A pre-hook of the decoder: padding travels as `B 1 1 S`, so that transformers makes no mask of all pairs of it.

    Args:
        front: tokens up to which attention is dense and takes the library's own masks.
    """
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[-1] > front:
        kwargs = {**kwargs, "attention_mask": mask.bool()[:, None, None]}
    return args, kwargs


def _tokens(site: Site, rule: RegionRule, query: Tensor, key: Tensor, value: Tensor, longspan: Rotation) -> _Tokens:
    rest = value.shape[-1] - site.rotary_dim
    positions = None
    if site.keeps_positions(longspan):
        key, positions = without_positions(key, rest)
        if not rule.turns_late:
            key = rotate_keys(key, rest, site.layout, longspan.of_keys(positions), key.dtype)
            positions = None
    rows, heads = len(query), key.shape[1] if rule.per_key_head else query.shape[1]
    routers = query.unflatten(1, (heads, -1)).mean(2) if rule.per_key_head else query
    known = torch.empty(rows, heads, 0, rule.sizes.selected, dtype=torch.long, device=query.device)
    width = site.slots.rotary_dim(site.rotary_dim) + rest
    value = functional.pad(value, (0, max(0, width - value.shape[-1])))
    omega = longspan.omega.expand(rows, -1) if longspan.omega.dim() == 2 else longspan.omega
    tau = None if longspan.tau is None else longspan.tau.expand(rows, -1)
    return _Tokens(query, routers, key, value, known, omega, positions, tau)


def _check(rule: RegionRule, name: str, tokens: _Tokens, *, dropout: float = 0.0, **_: Any) -> None:
    if dropout:
        raise MethodError(f"{name} knows no dropout of attention: set attention_dropout to 0 in the model's config")
    if rule.looks_ahead and tokens.query.shape[2] < tokens.key.shape[2]:
        raise MethodError(
            f"{name}(routing='lookahead') chooses by tokens that are not written yet: it cannot decode beyond "
            f"{rule.sizes.front} tokens; take routing='shifted'"
        )


def _dense(
    site: Site,
    module: Any,
    tokens: _Tokens,
    mask: Tensor | None,
    interface: Attend,
    longspan: Rotation,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    query, key = tokens.query, tokens.key
    if tokens.positions is not None:
        rest = tokens.value.shape[-1] - site.slots.rotary_dim(site.rotary_dim)
        turn = late_turn(tokens.omega, rest, site.layout, longspan.start)
        query = turn(query, longspan.positions.expand(len(query), -1))
        key = turn(key, tokens.positions)
    if tokens.tau is not None:
        query = (query * tokens.tau[:, None, :, None]).to(query.dtype)
    return interface(module, query, key, tokens.value, mask, **kwargs)


def _padding(mask: Tensor, tokens: _Tokens, name: str) -> tuple[list[int], list[int]]:
    """Where the tokens of each row begin and how many they are, told from a causal mask `B 1 T S` or `B 1 1 S`.

    Raises:
        MethodError: it is another mask, of packed documents for example, or padding lies between tokens.
    """
    queries, keys = tokens.query.shape[2], tokens.key.shape[2]
    seen = seen_by_mask(mask[..., :keys])[:, 0].expand(len(tokens.query), -1, -1)
    real = seen[:, -1]
    if seen.shape[1] == queries:
        expected = storage_order(queries, keys, seen.device) & real[:, None]
        own = seen.diagonal(keys - queries, dim1=1, dim2=2)  # False for padding, whose rows do not matter
        if bool(((seen != expected).any(-1) & own).any()):
            raise MethodError(
                f"{name} takes one document a row, with padding at its ends: packed documents and other masks would "
                "straddle its groups; unpack them"
            )
    count, first = real.sum(-1), real.int().argmax(-1)
    place = torch.arange(keys, device=seen.device)
    if bool((real != ((place >= first[:, None]) & (place < (first + count)[:, None]))).any()):
        raise MethodError(f"{name} takes rows in one piece: put padding to the left of them, not between tokens")
    return first.tolist(), count.tolist()


def _rows_apart(
    tokens: _Tokens,
    padding: tuple[list[int], list[int]] | None,
    rule: RegionRule,
    attend: Callable[[_Tokens, list[int] | None], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Rows that begin at the same place together, each from its first token on; their outputs and regions."""
    if padding is None or not any(padding[0]):
        return attend(tokens, None if padding is None else padding[1])
    starts, counts = padding
    rows, heads, queries = tokens.query.shape[:3]
    output = tokens.value.new_zeros(rows, heads, queries, tokens.value.shape[-1])
    groups = rule.sizes.groups(tokens.key.shape[2] - min(starts))
    regions = tokens.known.new_zeros(rows, tokens.known.shape[1], groups, rule.sizes.selected)
    for start in sorted(set(starts)):
        alike = [row for row in range(rows) if starts[row] == start]
        part = tokens.rows(alike, start)
        if part.query.shape[2]:
            found, chosen = attend(part, [counts[row] for row in alike])
            output[alike, :, queries - found.shape[2] :] = found
            regions[alike, :, : chosen.shape[2]] = chosen
    return output, regions


def _by_groups(
    site: Site,
    rule: RegionRule,
    width: int,
    start: Start | None,
    tokens: _Tokens,
    lengths: list[int] | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Output `B H T V` and all regions chosen so far.

    Args:
        width: elements of a head of the model.
        start: positions that turn at a speed of their own.
        lengths: tokens of each row, where padding may follow.
    """
    turn = None
    if tokens.positions is not None:
        turn = late_turn(tokens.omega, width - site.rotary_dim, site.layout, start)
    given: dict[str, Any] = {
        "turn": turn,
        "positions": tokens.positions,
        "scaling": 1 / math.sqrt(width) if scaling is None else scaling,
        "softcap": softcap,
    }
    query, key = tokens.query, tokens.key
    past = key.shape[2] - query.shape[2]
    if past == 0:
        regions = choose_regions(query, key, rule, turn, lengths)
        output = region_attention(query, key, tokens.value, rule, regions=regions, tau=tokens.tau, **given)
        return output, regions
    known = tokens.known[:, :, : rule.sizes.groups(past)]
    regions = continued_regions(tokens.routers[:, :, -key.shape[2] :], key, rule, known, turn)
    if tokens.tau is not None:
        query = (query * tokens.tau[:, None, :, None]).to(query.dtype)
    return continued_attention(query, key, tokens.value, rule, regions=regions, **given), regions
