"""CoCA's features and rotation in one go: equal to the float64 reference, by torch's operations and by the kernel.

The kernel runs on a device, or by Triton's interpreter where triton is installed and there is none."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longspan.equation import Slots, Window
from longspan.kernels import fused, trust
from longspan.kernels.dense import attention
from longspan.kernels.features import query_features
from longspan.methods.feature.coca import Coca
from longspan.methods.feature.pope import PoPE
from longspan.reference import reference_attention
from longspan.rotation import rotation_tables
from tolerances import TOLERANCE, distance

KERNELS = ["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)]
SHAPES = [
    pytest.param(8, 8, "half", "relu", id="whole"),
    pytest.param(6, 6, "interleaved", "softplus", id="odd number of pairs"),
    pytest.param(10, 4, "half", "softplus", id="partial"),
    pytest.param(11, 8, "interleaved", "relu", id="partial, odd"),
]


def prepared(way: str, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the kernel runs: a GPU, or the processor, whose tensors the interpreter takes; or torch in its place."""
    if way == "torch":
        return torch.device("cpu")
    pytest.importorskip("triton", reason="triton is not installed: with pip install 'longspan[triton]' it is tested")
    if way == "cuda":
        return torch.device("cuda")
    if torch.cuda.is_available():
        pytest.skip("with a GPU the kernel is tested on it, and a process has either the interpreter or the compiler")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when the kernels are defined
    importlib.import_module("longspan.kernels.coca_triton")
    monkeypatch.setattr(fused, "_on_gpu", lambda _: True)
    return torch.device("cpu")


@pytest.fixture(params=["torch", *KERNELS])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Of every way there is."""
    return prepared(request.param, monkeypatch)


@pytest.fixture(params=KERNELS)
def kernel_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Of the kernel alone."""
    return prepared(request.param, monkeypatch)


@pytest.fixture(autouse=True)
def no_doubts(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """A kernel that is not trusted would hide behind what runs instead."""
    yield
    if "wrong" not in request.node.name and "cannot" not in request.node.name:
        assert not [message for message in caplog.messages if "is not used" in message]


@pytest.fixture
def nan_filled() -> Iterator[None]:
    """Memory that is not written holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(*shape: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`B H T D` as a projection leaves it: heads beside each other."""
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(device, dtype).transpose(1, 2).requires_grad_()


def inputs(width: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """q of six heads, k and v of three, 37 tokens each."""
    heads = (6, 3, 3)
    return [draw(2, 37, h, width, seed=seed, dtype=dtype, device=device) for seed, h in enumerate(heads)]


@pytest.mark.parametrize(("width", "rotary_dim", "layout", "gate"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("nan_filled")
def test_attention_and_its_gradients_equal_the_reference(
    width: int, rotary_dim: int, layout: Any, gate: Any, dtype: torch.dtype, device: torch.device
) -> None:
    method = Coca(gate=gate)
    window = Window(rotary_dim=rotary_dim, original_length=64, target_length=64, layout=layout)
    given = inputs(width, dtype, device)
    found = attention(*given, methods=[method], window=window)
    exact = [x.detach().cpu().double().requires_grad_() for x in given]
    expected = reference_attention(*exact, methods=[method], window=window)
    assert distance(found.cpu(), expected) < TOLERANCE[dtype]
    found.float().sin().sum().backward()
    expected.sin().sum().backward()
    for x, true in zip(given, exact, strict=True):
        assert x.grad is not None
        assert true.grad is not None
        assert distance(x.grad.cpu(), true.grad) < 2 * TOLERANCE[dtype]


def tables(rotary_dim: int, device: torch.device, tokens: int = 37, rows: int = 1) -> tuple[Tensor, Tensor]:
    omega = torch.logspace(0, -3, rotary_dim // 2, dtype=torch.float64, device=device)
    positions = torch.stack([torch.arange(tokens, device=device) + 500 * row for row in range(rows)])
    return rotation_tables(omega, positions, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("role", ["query", "key"])
def test_numbers_are_rounded_once(role: Any, dtype: torch.dtype, device: torch.device) -> None:
    x, method = inputs(64, dtype, device)[0], Coca(gate="softplus")
    cos, sin = tables(64, device, rows=2)
    found = fused.fused_features(x, method, role, 64, "half", (cos, sin))
    first, second = x.detach().double().chunk(2, dim=-1)
    made = first**2 + second**2 if role == "query" else torch.log1p(((first + second) / 2).exp())
    expected = torch.cat((made * cos[:, None].double(), made * sin[:, None].double()), dim=-1)
    assert found is not None
    # half a unit in the last place, and a little for what is computed in float32; the interpreter cuts bfloat16 off
    cut = dtype == torch.float32 or (dtype == torch.bfloat16 and device.type == "cpu" and fused._on_gpu(x))
    allowed = torch.finfo(dtype).eps * expected.abs() * (1 if cut else 0.5) + 1e-6
    assert ((found.double() - expected).abs() <= allowed).all()


def test_one_token_of_one_head_far_out(device: torch.device) -> None:
    x = draw(1, 1, 1, 128, seed=0, dtype=torch.float32, device=device)
    omega = torch.logspace(0, -4, 64, dtype=torch.float64, device=device)
    cos, sin = rotation_tables(omega, torch.tensor([[1_000_000]], device=device), torch.float32)
    found = fused.fused_features(x, Coca(), "key", 128, "half", (cos, sin))
    t = ((x[..., :64] + x[..., 64:]) / 2).clamp(min=0).double()
    assert found is not None
    assert distance(found, torch.cat((t * cos.double(), t * sin.double()), dim=-1)) < TOLERANCE[torch.float32]


def test_gradients_may_come_spread_out(device: torch.device) -> None:
    x = draw(2, 5, 3, 8, seed=0, dtype=torch.float32, device=device)
    cos, sin = tables(8, device, tokens=5)
    found = fused.fused_features(x, Coca(), "query", 8, "half", (cos, sin))
    assert found is not None
    found.sum().backward()  # one number, expanded
    assert x.grad is not None
    slope = 2 * (cos + sin)[:, None]
    assert distance(x.grad, torch.cat((slope, slope), dim=-1) * x) < TOLERANCE[torch.float32]


def test_a_kernel_that_is_wrong_is_turned_off_and_says_so_once(
    kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = importlib.import_module("longspan.kernels.coca_triton")
    right = kernels.turned
    monkeypatch.setattr(kernels, "turned", lambda *args, **settings: right(*args, **settings) * 1.01)
    monkeypatch.setattr(trust, "_verdicts", {})
    x, pair = inputs(8, torch.float32, kernel_device)[0], tables(8, kernel_device)
    with caplog.at_level(logging.WARNING):
        outputs = [query_features(x, Slots(feature=Coca()), 8, "half", pair, None) for _ in range(2)]
    assert len(caplog.messages) == 1
    assert "(Triton) is not used (its outputs are off by" in caplog.messages[0]
    assert "a pass of torch's own operations runs instead" in caplog.messages[0]
    first, second = x.detach().double().chunk(2, dim=-1)
    made = first**2 + second**2
    expected = torch.cat((made * pair[0][:, None], made * pair[1][:, None]), dim=-1)
    assert all(distance(output, expected) < TOLERANCE[torch.float32] for output in outputs)


def test_where_the_kernel_cannot_run_it_is_said_once_and_on_a_processor_never(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trust, "_verdicts", {})
    monkeypatch.setitem(sys.modules, "longspan.kernels.coca_triton", None)  # importing it fails
    x, pair = inputs(8, torch.float32, torch.device("cpu"))[0], tables(8, torch.device("cpu"))
    with caplog.at_level(logging.WARNING):
        expected = query_features(x, Slots(feature=Coca()), 8, "half", pair, None)
        assert not caplog.messages
        monkeypatch.setattr(fused, "_on_gpu", lambda _: True)
        for _ in range(2):
            assert torch.equal(query_features(x, Slots(feature=Coca()), 8, "half", pair, None), expected)
    assert len(caplog.messages) == 1
    assert "is not used (ModuleNotFoundError" in caplog.messages[0]


@pytest.mark.parametrize("feature", [Coca(form="slack"), Coca(form="strict"), PoPE(width="half"), None], ids=str)
def test_other_features_go_the_plain_way(feature: Any) -> None:
    x = inputs(8, torch.float32, torch.device("cpu"))[0]
    assert fused.fused_features(x, feature, "query", 8, "half", tables(8, x.device)) is None


@pytest.mark.slow
def test_the_kernel_compiles_for_gpus_that_are_not_here_and_rounds_to_the_nearest() -> None:
    pytest.importorskip("triton", reason="triton is not installed: with pip install 'longspan[triton]' it is tested")
    script = Path(__file__).parents[1] / "compiled_kernels.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 8
    assert "cuts off" not in done.stdout
