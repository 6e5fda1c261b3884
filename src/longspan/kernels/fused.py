"""Features and rotation in one go, where there is a way, and which: our kernel on a GPU, or torch's operations."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from longspan.equation import Feature
from longspan.kernels import coca_pass
from longspan.kernels.trust import trusted
from longspan.rotation import Layout, Magnitude, rotate_pairs, rotation_tables

KERNEL = "CoCA's feature map and rotation in one kernel (Triton)"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ROUNDINGS = 4
"""Units in the last place, of the largest value, that the kernel may be away from float64: it rounds once in the
model's dtype, and a few times in float32."""

Role = Literal["query", "key"]


def fused_features(
    x: Tensor, feature: Feature | None, role: Role, rotary_dim: int, layout: Layout, tables: tuple[Tensor, Tensor]
) -> Tensor | None:
    """Rotated features `B H T D` of queries or keys, or None where there is nothing better than the plain path.

    That is so for features without `magnitudes`, and under torch.compile, which makes one pass of the plain path by
    itself and would see none in a kernel of ours. On a GPU the kernel runs where it has proved itself on that device.

    Args:
        x: `B H T D`
        tables: cos and sin, `B T F` or `1 T F`
    """
    magnitudes = None if feature is None else feature.magnitudes()
    if feature is None or magnitudes is None or torch.compiler.is_compiling():
        return None
    magnitude = magnitudes.query if role == "query" else magnitudes.key
    if _on_gpu(x):
        situation = (str(x.device), x.dtype, x.shape[-1], rotary_dim, layout, magnitude)
        check = functools.partial(_fault, x, feature, magnitude, role, rotary_dim, layout)
        if trusted(KERNEL, situation, check, instead="a pass of torch's own operations"):
            return _by_triton(x, tables, rotary_dim, layout, magnitude)
    return coca_pass.turned(x, *tables, rotary_dim=rotary_dim, layout=layout, magnitude=magnitude)


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def _by_triton(
    x: Tensor, tables: tuple[Tensor, Tensor], rotary_dim: int, layout: Layout, magnitude: Magnitude
) -> Tensor:
    from longspan.kernels.coca_triton import turned  # triton is not everywhere

    return turned(x, *tables, rotary_dim=rotary_dim, layout=layout, magnitude=magnitude)


@torch.inference_mode(False)
@torch.enable_grad()
def _fault(
    like: Tensor, feature: Feature, magnitude: Magnitude, role: Role, rotary_dim: int, layout: Layout
) -> str | None:
    """What speaks against the kernel: outputs or gradients that are not those of the plain path in float64.

    Args:
        like: what device, dtype and head size are taken from.
    """
    if like.dtype not in DTYPES:
        return f"it computes in float32 and rounds to {' or '.join(map(str, DTYPES))}, not to {like.dtype}"
    generator = torch.Generator().manual_seed(0)
    tokens, heads, width = 37, 5, like.shape[-1]
    given = torch.randn(2, tokens, heads, width, generator=generator).to(like.device, like.dtype).transpose(1, 2)
    weights = torch.randn(2, heads, tokens, width, generator=generator).to(like.device, like.dtype)
    omega = torch.logspace(0, -4, rotary_dim // 2, dtype=torch.float64, device=like.device)
    positions = torch.arange(1000, 1000 + tokens, device=like.device)[None].expand(2, -1)
    tables = rotation_tables(omega, positions, torch.float32)
    exact, x = given.double().requires_grad_(), given.clone().requires_grad_()
    expected = _plain(exact, feature, role, rotary_dim, layout, (tables[0].double(), tables[1].double()))
    (expected * weights.double()).sum().backward()
    found = _by_triton(x, tables, rotary_dim, layout, magnitude)
    found.backward(weights)
    assert x.grad is not None
    assert exact.grad is not None
    for what, value, true in (("outputs", found, expected), ("gradients", x.grad, exact.grad)):
        error = float((value.double() - true).detach().abs().max())
        allowed = ROUNDINGS * torch.finfo(like.dtype).eps * float(true.detach().abs().max())
        if not error <= allowed:
            return f"its {what} are off by {error:.2g}, more than the {allowed:.2g} of rounding"
    return None


def _plain(
    x: Tensor, feature: Feature, role: Role, rotary_dim: int, layout: Layout, tables: tuple[Tensor, Tensor]
) -> Tensor:
    head, rest = x[..., :rotary_dim], x[..., rotary_dim:]
    made = feature.phi(head, layout) if role == "query" else feature.psi(head, layout, {})
    cos, sin = (table.unsqueeze(1) for table in tables)
    return torch.cat((rotate_pairs(made, cos, sin, layout), rest), dim=-1)
