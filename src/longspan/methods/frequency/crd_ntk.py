"""CRD NTK: cyclic, randomly truncated positions under a base that grows while training.

Formula   step t: f = min(f0 2^(t // stage_steps), f_cap); o ~ U{0 .. span - 1}; p_i = (o + i) mod P;
          alpha = f P/L0 - (f - 1); base' = base alpha^(R/(R-2)), L0 trained length, P = 2 x train_length
          afterwards: p_i = i, base' = base S^(R/(R-2)), S = clamp(16 N/L0, alpha(f0), alpha(f of the last step)),
          N target length
Source    arXiv:2410.04211 and its authors' draft code, which has each letter but never all three together
Differs   in the draft P is 32,768, o is drawn in each layer, f follows a counter that recomputation advances too, and S
          is chosen by hand; here P follows train_length, one o serves a step, f follows the step of the run. An offset
          without a wrap changes nothing (only distances count), nor does a cycle that no window crosses: truncated
          alone is plain NTK, and so is cyclic alone where P is not below the window. Left out: an o for each layer, or
          one for q and one for k, since positions are made once for all layers and both; a random period, which the
          draft holds unused without its start; power-law growth, known by name only
Checked   alpha by hand at the published stages; |distances| of P = 2 n by brute force; logits with and without wrap
Training  what it is for; 5,000 steps at 16K in the source. Never use a trained model at the old base
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from longspan.equation import Draw, Frequency, Position, Window, plain_draw
from longspan.errors import MethodError
from longspan.methods.frequency.ntk import frequencies_of_base, raised_base
from longspan.settings import require

RATE = 16
"""S grows by this with N / L0: at S = f N/L0 the slowest pair turns as far at N as training showed at factor f."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrdNtk(Frequency, Position):
    """Cyclic, randomly truncated, dynamically growing NTK."""

    cyclic: bool = True
    """C: positions start again at 0 after P."""
    truncated: bool = True
    """R: windows start at a random place."""
    growing: bool = True
    """D: f doubles every stage_steps steps; otherwise it stays at first_factor."""
    period: int | None = None
    """P; None takes twice the train_length (twice the original_length where nothing was trained)."""
    span: int = 4 * 2**20
    """O: starts are drawn below this."""
    first_factor: float = 16.0
    """f0, f of the first stage; without growth the source has 4,096 or 16,384."""
    last_factor: float = 8192.0
    """f_cap, where growth ends."""
    stage_steps: int = 500
    """Optimizer steps of one stage."""
    inference_scale: float | None = None
    """S; None takes the rule above."""
    trained_steps: int | None = None
    """Steps of the training run, which writes them here: what f has grown to. None stands for all stages."""

    def check(self) -> None:
        for name in ("period", "span", "stage_steps", "trained_steps"):
            require(getattr(self, name) is None or getattr(self, name) > 0, self, f"{name} must be positive")
        require(self.first_factor > 0, self, "first_factor must be positive")
        require(self.inference_scale is None or self.inference_scale >= 1, self, "inference_scale must be at least 1")
        require(not self.growing or self.last_factor >= self.first_factor, self, "last_factor is below first_factor")
        for needs, names in (("truncated", ("span",)), ("growing", ("last_factor", "stage_steps"))):
            for name in names:
                moved = getattr(self, name) != type(self).__dataclass_fields__[name].default
                require(getattr(self, needs) or not moved, self, f"{name} has no effect without {needs}")

    def factor_at(self, step: int) -> float:
        """f in a step of the run, counted from 0."""
        if not self.growing:
            return self.first_factor
        return min(self.first_factor * 2.0 ** min(step // self.stage_steps, 1000), self.last_factor)

    def alpha(self, factor: float, window: Window) -> float:
        """How much the slowest pair is slowed at f = `factor`.

        Raises:
            MethodError: not at all, since P is not above the trained length.
        """
        period = self.period or 2 * window.original_length
        found = factor * period / window.original_length - (factor - 1)
        if found <= 1:
            raise MethodError(
                f"CrdNtk slows no pair (alpha = {found:g}): its period {period} is not above original_length "
                f"{window.original_length}; raise the period or give the length that the model was really trained on"
            )
        return found

    def frequency(self, window: Window) -> Float64[Tensor, " F"]:
        first = self.alpha(self.first_factor, window)
        if self.inference_scale is not None:
            return self._slowed(self.inference_scale, window)
        steps = self.trained_steps
        last = self.factor_at(steps - 1) if steps else self.last_factor if self.growing else self.first_factor
        return self._slowed(min(max(RATE * window.factor, first), self.alpha(last, window)), window)

    def in_training(self, window: Window, step: int) -> Float64[Tensor, " F"]:
        return self._slowed(self.alpha(self.factor_at(step), window), window)

    def _slowed(self, scale: float, window: Window) -> Tensor:
        return frequencies_of_base(raised_base(window.base, scale, window.rotary_dim), window.rotary_dim)

    def draw(
        self,
        length: int,
        window: Window,
        rng: np.random.Generator,
        *,
        document: int | None = None,
        turns: np.ndarray | None = None,
    ) -> Draw:
        start = int(rng.integers(self.span)) if self.truncated else 0
        positions = start + np.arange(length)
        return plain_draw(length, positions % (self.period or 2 * window.original_length) if self.cyclic else positions)

    def shared(self) -> bool:
        return True

    def for_run(self, train_length: int, steps: int) -> CrdNtk:
        return dataclasses.replace(self, period=self.period or 2 * train_length, trained_steps=steps)
