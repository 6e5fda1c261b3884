"""Methods said by the rope keys of a GGUF file, as llama.cpp reads them.

Source    github.com/ggml-org/llama.cpp: `load_hparams` (src/llama-model.cpp), the constructor of `llama_context`
          (src/llama-context.cpp), `ggml_rope_cache_init` and `rope_yarn` (ggml/src/ggml-cpu/ops.cpp),
          `ggml_rope_yarn_corr_dims` (ggml/src/ggml.c)
Differs   these architectures have no key for YaRN's betas and always round the ends of its ramp to whole pairs; a
          temperature is a factor on cos and sin under any scaling; angles are made in float32, by which logits were
          off by 0.001 of their spread at 8000 tokens
Checked   llama.cpp itself: the logits of every form, beyond the trained window
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Window
from longspan.errors import MethodError
from longspan.export.rope_types import CLOSE, InexpressibleError, base_of, rounded, temperature_root
from longspan.methods.frequency.ntk import frequencies_of_base
from longspan.methods.frequency.yarn import Yarn
from longspan.surgery import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufRope:
    """What a file says of the rotation."""

    kind: Literal["base", "linear", "yarn", "factors"]
    base: float
    factor: float = 1.0
    """Of `linear` and `yarn`: how many times slower."""
    original_length: int
    """Tokens the model was trained on, which YaRN's ramp is made from."""
    attention_factor: float = 1.0
    """What cos and sin are multiplied by, beside the 0.1 ln(factor) + 1 that `yarn` multiplies by itself."""
    pair_factors: tuple[float, ...] | None = None
    """Of `factors`: what each pair's frequency is divided by."""

    def omega(self, window: Window) -> Float64[Tensor, " F"]:
        """The frequencies that llama.cpp makes of it."""
        omega = frequencies_of_base(self.base, window.rotary_dim)
        if self.pair_factors is not None:
            return omega / torch.tensor(self.pair_factors, dtype=torch.float64)
        if self.kind == "yarn":
            return Yarn(factor=self.factor).frequency(window)
        return omega / self.factor


def gguf_rope(plan: Plan, *, takes_factors: bool) -> GgufRope:
    """The rope keys under which llama.cpp computes what `plan` says, the form best known to other tools first.

    Args:
        takes_factors: whether the architecture reads a factor for each pair.

    Raises:
        MethodError: there are none, with the reason.
    """
    slots, window = plan.slots, plan.window
    try:
        root = temperature_root(plan)
    except InexpressibleError as error:
        raise MethodError(f"llama.cpp cannot compute it: {error}; export with --to hf") from error
    if slots.follows_length():
        raise MethodError(
            f"{type(slots.frequency).__name__} follows the length of the input, but llama.cpp has one set of "
            "frequencies for all: extend the model with static_for='target', or export with --to hf"
        )
    omega = slots.omega(window)
    for rope in _candidates(plan, omega, root, takes_factors):
        if torch.allclose(rope.omega(window), omega, rtol=CLOSE, atol=0):
            return rope
    raise MethodError(
        f"llama.cpp's {plan.family.model_type} takes a base, linear scaling and YaRN as it is published, none of which "
        f"gives the frequencies of {type(slots.frequency).__name__} with these settings: export with --to hf"
    )


def _candidates(plan: Plan, omega: Tensor, root: float, takes_factors: bool) -> Iterator[GgufRope]:
    window, frequency = plan.window, plan.slots.frequency
    original = window.original_length
    yield GgufRope(kind="base", base=base_of(omega, window), original_length=original, attention_factor=root)
    slowed = rounded(window.omega[0] / omega[0])
    yield GgufRope(kind="linear", base=window.base, factor=slowed, original_length=original, attention_factor=root)
    if isinstance(frequency, Yarn):
        factor = frequency.factor or window.factor
        own = 0.1 * math.log(factor) + 1
        yield GgufRope(
            kind="yarn",
            base=window.base,
            factor=factor,
            original_length=original,
            attention_factor=1.0 if math.isclose(root, own) else root / own,
        )
    if takes_factors:
        yield GgufRope(
            kind="factors",
            base=window.base,
            original_length=original,
            attention_factor=root,
            pair_factors=tuple((window.omega / omega).tolist()),
        )
