"""What one layer's attention costs, by length: plain RoPE on our kernels, CoCA, and what others have.

Every contestant is given q, k and v as projections leave them and rotates them itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longspan.bench.contest import Contest, Maker
from longspan.bench.fit import exponents
from longspan.bench.limits import attention_work, machine
from longspan.bench.settings import BenchSettings
from longspan.equation import Method, Window
from longspan.errors import ConfigError
from longspan.kernels.dense import attention
from longspan.methods.feature.coca import Coca
from longspan.methods.feature.pope import PoPE
from longspan.records import Record
from longspan.rotation import rotate_pairs, rotation_tables

LENGTHS = {"cpu": (512, 1024, 2048, 4096, 8192), "cuda": (512, 1024, 4096, 16384, 32768, 131072)}
HEADS, HEAD_DIM = {"cpu": 4, "cuda": 16}, 64
RELEASED_MOST = 4096
"""The released way keeps several matrices of heads times length times length: here gigabytes."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to attend."""

    make: Callable[[int, torch.device], Attend]
    """From the length and the device, whatever can be made before q, k and v are there."""
    most: int | None = None
    """The longest input that it is given."""
    trains: bool = True
    """Whether its backward pass is measured."""


def ours(*methods: Method) -> Callable[[int, torch.device], Attend]:
    """The equation's fast path with `methods` over plain RoPE."""

    def make(length: int, device: torch.device) -> Attend:
        window = _window(length)
        return lambda q, k, v: attention(q, k, v, methods=methods, window=window)

    return make


def released(length: int, device: torch.device) -> Attend:
    """Slack CoCA as released: scores by one contraction into an N x N matrix, mask, softmax, product.

    The contraction is given its better order (q times rotated q first), which an einsum does not find by itself.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cos, sin = _tables(q)
        t = Coca(form="slack").psi(k, "half", {})
        scores = (q * rotate_pairs(q, cos, sin, "half")) @ rotate_pairs(t, cos, sin, "half").transpose(2, 3)
        hidden = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
        return (scores / HEAD_DIM**0.5).masked_fill(hidden, torch.finfo(q.dtype).min).softmax(-1).to(v.dtype) @ v

    return attend


def flex(length: int, device: torch.device) -> Attend:
    """RoPE in front of FlexAttention, compiled, with a causal block mask."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Any = torch.compile(flex_attention)
    mask = causal_blocks(length, device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cos, sin = _tables(q)
        query, key = (rotate_pairs(x, cos, sin, "half").to(x.dtype) for x in (q, k))
        output: Tensor = compiled(query, key, v, block_mask=mask)
        return output

    return attend


def causal_blocks(length: int, device: torch.device, size: int = 128) -> Any:
    """The block mask of causal attention, made without looking at each pair of tokens: gigabytes at 128k.

    Each row of blocks has one on the diagonal, inside which the mask is asked, and whole ones before it.
    """
    from torch.nn.attention.flex_attention import BlockMask

    rows = torch.arange(-(-length // size), dtype=torch.int32, device=device)
    every = rows.expand(1, 1, len(rows), -1).contiguous()
    diagonal = rows[:, None].expand(1, 1, -1, len(rows)).contiguous()  # the first of each row counts
    return BlockMask.from_kv_blocks(
        torch.ones_like(rows)[None, None],
        diagonal,
        rows[None, None],
        every,
        BLOCK_SIZE=size,
        mask_mod=_causal,
        seq_lengths=(length, length),
    )


def _causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key


def pope_kernel(length: int, device: torch.device) -> Attend:
    """PoPE on the fused Triton kernel of the package PoPE-pytorch."""
    if device.type != "cuda":
        raise ConfigError("its fused kernel needs CUDA")
    try:
        from PoPE_pytorch import PoPE as Module
        from PoPE_pytorch import flash_attn_with_pope
    except ImportError as error:
        raise ConfigError(f"{error}: pip install 'longspan[bench]'") from error
    angles = Module(HEAD_DIM, heads=HEADS[device.type]).to(device).requires_grad_(False)(length)
    return lambda q, k, v: flash_attn_with_pope(q, k, v, pos_emb=angles, causal=True, fused=True)


WAYS = {
    "rope": Way(ours()),
    "coca": Way(ours(Coca())),
    "pope": Way(ours(PoPE())),
    "released coca": Way(released, most=RELEASED_MOST, trains=False),
    "flex": Way(flex),
    "PoPE-pytorch": Way(pope_kernel),
}
PAIRS = (
    ("coca", "rope"),
    ("pope", "rope"),
    ("released coca", "coca"),
    ("flex", "rope"),
    ("PoPE-pytorch", "rope"),
    ("PoPE-pytorch", "pope"),
)


def attention_costs(settings: BenchSettings) -> Iterator[Record]:
    """Time, memory, ratios and shares of the limit, of a forward pass and of one with its backward."""
    kind = settings.device.type
    limits = machine(settings.device, settings.dtype)
    yield from limits.records()
    for backward, task in {False: "attention", True: "attention, backward too"}.items():
        contest = Contest(task=task, settings=settings, pairs=PAIRS, machine=limits)
        found = []
        for length in settings.chosen(LENGTHS[kind]):
            ways = {
                name: way
                for name, way in WAYS.items()
                if length <= (way.most or length) and (way.trains or not backward)
            }
            given = inputs(length, settings)
            makers = {name: _maker(way, given, backward) for name, way in ways.items()}
            work = attention_work(*given[:2], backward=backward)
            for record in contest.at(length, makers, work=work, least=5 if length < 16384 or settings.on_gpu else 3):
                found.append(record)
                yield record
        yield from exponents(found)


def inputs(length: int, settings: BenchSettings) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of one attention layer."""
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (1, HEADS[settings.device.type], length, HEAD_DIM)
    q, k, v = (torch.randn(shape, generator=generator).to(settings.device, settings.dtype) for _ in range(3))
    return q, k, v


def _maker(way: Way, given: tuple[Tensor, Tensor, Tensor], backward: bool) -> Maker:
    def make() -> Callable[[], object]:
        attend = way.make(given[0].shape[2], given[0].device)
        call = _both(attend, given) if backward else torch.no_grad()(lambda: attend(*given))
        call()  # compiles what is compiled, before its memory is measured
        return call

    return make


def _both(attend: Attend, given: tuple[Tensor, Tensor, Tensor]) -> Callable[[], object]:
    leaves = tuple(x.clone().requires_grad_() for x in given)
    weight = torch.ones_like(given[2])
    return lambda: torch.autograd.grad(attend(*leaves), leaves, weight)


def _window(length: int) -> Window:
    return Window(rotary_dim=HEAD_DIM, original_length=length, target_length=length)


def _tables(q: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin for queries `B H T D` from position 0 on."""
    positions = torch.arange(q.shape[2], device=q.device)
    omega = _window(q.shape[2]).omega.to(q.device)
    return rotation_tables(omega, positions, torch.promote_types(q.dtype, torch.float32))
