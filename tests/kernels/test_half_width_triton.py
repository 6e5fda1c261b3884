"""The Triton kernel for half-width keys equals the float64 reference, on a device or by Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from half_width_cases import CASES, Step
from longspan.kernels import half_width
from tolerances import TOLERANCE, distance

pytest.importorskip("triton", reason="triton is not installed: pip install 'longspan[triton]' tests its kernels, too")


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the kernel runs: a GPU, or the processor, whose tensors the interpreter takes."""
    if request.param == "cuda":
        return torch.device("cuda")
    if torch.cuda.is_available():
        pytest.skip("with a GPU the kernel is tested on it, and a process has either the interpreter or the compiler")
    monkeypatch.setattr(half_width, "_on_gpu", lambda _: True)
    return torch.device("cpu")


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_equals_the_reference(
    name: str, device: torch.device, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_width, "in_blocks", half_width.in_registers)  # nothing stands in for it
    step = Step(**CASES[name], device=device)
    assert distance(step.found(), step.expected()) < TOLERANCE[step.dtype]
    assert not [record for record in caplog.records if record.name.startswith("longspan")]
