"""From q and k to what the kernel multiplies: features, rotation, and the part of a head that passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from longspan.equation import Slots
from longspan.kernels.fused import fused_features
from longspan.rotation import Layout, Start, rotate_pairs, rotation_tables


def query_features(
    q: Tensor, slots: Slots, rotary_dim: int, layout: Layout, tables: tuple[Tensor, Tensor], tau: Tensor | None
) -> Tensor:
    """Rotated queries `B H T W`, scaled by tau.

    Args:
        q: `B H T D`
        tables: cos and sin, `B T F`
        tau: `B T`, or None for 1
    """
    query = fused_features(q, slots.feature, "query", rotary_dim, layout, tables)
    if query is None:
        head, rest = q[..., :rotary_dim], q[..., rotary_dim:]
        cos, sin = (table.unsqueeze(1) for table in tables)

        def rotate(x: Tensor) -> Tensor:
            return rotate_pairs(x, cos, sin, layout)

        head = rotate(head) if slots.feature is None else slots.feature.query(head, rotate, layout)
        query = _joined(head, rest, q.dtype)
    return query if tau is None else (query * tau[:, None, :, None]).to(q.dtype)


def key_features(
    k: Tensor, slots: Slots, rotary_dim: int, layout: Layout, parameters: Mapping[str, Tensor], *, stored: bool
) -> Tensor:
    """Un-rotated keys `B G S W`: what a cache holds where keys turn late (`stored`, in the dtype of k then)."""
    if slots.feature is None:
        return k
    head = slots.feature.psi(k[..., :rotary_dim], layout, parameters)
    return _joined(head, k[..., rotary_dim:], k.dtype if stored else head.dtype)


def turned_keys(
    k: Tensor,
    slots: Slots,
    rotary_dim: int,
    layout: Layout,
    parameters: Mapping[str, Tensor],
    tables: tuple[Tensor, Tensor],
) -> Tensor:
    """Rotated keys `B G S W`: what a cache holds where keys do not turn late.

    Args:
        k: `B G S D`
        tables: cos and sin, `B S F`
    """
    found = fused_features(k, slots.feature, "key", rotary_dim, layout, tables)
    if found is not None:
        return found
    key = key_features(k, slots, rotary_dim, layout, parameters, stored=False)
    return rotate_keys(key, k.shape[-1] - rotary_dim, layout, tables, k.dtype)


def still_queries(q: Tensor, slots: Slots, rotary_dim: int, layout: Layout) -> Tensor:
    """Un-rotated queries `B H T W`, for methods that turn them later, by `turn_at`."""
    if slots.feature is None:
        return q
    return _joined(slots.feature.phi(q[..., :rotary_dim], layout), q[..., rotary_dim:], q.dtype)


def late_turn(omega: Tensor, rest: int, layout: Layout, start: Start | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Rotation of `B H T W` from `still_queries` or `key_features` by positions `B T`, or `B H T`.

    Args:
        omega: `F`, or `B F`
        rest: elements at the end of a head that pass
    """
    speed = omega[:, None] if omega.dim() == 2 else omega

    def turn(x: Tensor, positions: Tensor) -> Tensor:
        positions = positions[:, None] if positions.dim() == 2 else positions
        cos, sin = rotation_tables(speed, positions, torch.promote_types(x.dtype, torch.float32), start)
        width = x.shape[-1] - rest
        return _joined(rotate_pairs(x[..., :width], cos, sin, layout), x[..., width:], x.dtype)

    return turn


def rotate_keys(key: Tensor, rest: int, layout: Layout, tables: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    """Rotate keys from `key_features`, the last `rest` elements of which pass.

    Args:
        key: `B G S W`
        tables: cos and sin, `B S F`
        dtype: of what the kernel gets; features are rounded once, after rotation
    """
    cos, sin = (table.unsqueeze(1) for table in tables)
    width = key.shape[-1] - rest
    return _joined(rotate_pairs(key[..., :width], cos, sin, layout), key[..., width:], dtype)


def _joined(head: Tensor, rest: Tensor, dtype: torch.dtype) -> Tensor:
    head = head.to(dtype)
    return torch.cat((head, rest.to(dtype)), dim=-1) if rest.shape[-1] else head
