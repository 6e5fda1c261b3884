"""`python compiled_kernels.py`: compile our Triton kernels for GPUs that are not here, as far as machine code.

A process of its own, since one that has Triton's interpreter has no compiler.
"""

from __future__ import annotations

import warnings

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from longspan.kernels import coca_triton

CAPABILITIES = (80, 90)
CASES = [("bf16", "square", False), ("bf16", "softplus", True), ("fp16", "relu", True), ("fp32", "softplus", False)]
POINTERS = {"cos": "*fp32", "sin": "*fp32"}


def compile_turn(capability: int, element: str, magnitude: str, backward: bool) -> str:
    """Machine code of the kernel for heads of 128 elements, 96 of which turn."""
    kernel = coca_triton._turn
    fixed = {
        "PAIRS": 48, "REST": 32, "INTERLEAVED": False, "MAGNITUDE": magnitude, "BACKWARD": backward,
        "ROWS": 16, "COLUMNS": 64, "REST_COLUMNS": 32, "HEADS": coca_triton.HEADS,
        "x_element": 1, "grad_element": 1, "out_element": 1,
    }  # fmt: skip
    tensors = {"x": f"*{element}", "grad": f"*{element}", "out": f"*{element}", **POINTERS}
    signature = {name: tensors.get(name, "constexpr" if name in fixed else "i32") for name in kernel.arg_names}
    made = triton.compile(ASTSource(kernel, signature, fixed), target=GPUTarget("cuda", capability, 32))
    return made.asm["ptx"]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for case in CASES:
        for capability in CAPABILITIES:
            code = compile_turn(capability, *case)
            print(capability, *case, "rounds" if "cvt.rn" in code or case[0] == "fp32" else "cuts off")
