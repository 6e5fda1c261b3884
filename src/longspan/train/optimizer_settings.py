"""AdamW and its learning rate, as the settings of a run give them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from longspan.train.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class OptimizerSettings(Settings):
    """AdamW and the course of its learning rate."""

    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Share, Share] = (0.9, 0.95)
    warmup: Share = 0.02
    """Share of the steps in which the learning rate rises."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_share: Share | None = None
    """The last learning rate as a share of the highest (0.1 if not set); not for `constant`."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("schedule") != "constant" and values.get("final_share") is None:
            return {**values, "final_share": 0.1}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule == "constant" and self.final_share is not None:
            raise ValueError("'final_share' has no effect on schedule constant; leave it out")
        return self

    def share(self, step: int, steps: int) -> float:
        """The learning rate of a step (counted from 0) of `steps`, as a share of the highest."""
        warmup = round(self.warmup * steps)
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        final = 1.0 if self.final_share is None else self.final_share
        if self.schedule == "cosine":
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
        return 1 - (1 - final) * done  # linear; constant has final = 1
