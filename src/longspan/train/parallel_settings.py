"""How the processes of a run share the work. How many there are is the launcher's to say."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from longspan.train.settings import Settings

Count = Annotated[int, Field(ge=1)]


class ParallelSettings(Settings):
    """Nothing set: each process holds the whole model and learns from its part of every batch (data parallel).

    All of it changes the result by rounding alone, so a run goes on with other settings, and with more or fewer
    processes.
    """

    fsdp: bool = False
    """Weights, gradients and the optimizer's moments are split over the processes (FSDP2)."""
    replicas: Count = 1
    """With fsdp: whole copies of the split model, say one a machine; fewer bytes between them, more in each."""
    context: Count = 1
    """With fsdp: processes that share each window (torch's ring attention)."""
    ulysses: Count = 1
    """With fsdp: processes that share each window by heads (deepspeed's Ulysses attention)."""

    @property
    def sharing(self) -> int:
        """Processes that share each window, in either way."""
        return self.context * self.ulysses

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("replicas", "context", "ulysses"):
            if getattr(self, name) > 1 and not self.fsdp:
                raise ValueError(f"'{name}' works on a split model: set 'parallel.fsdp' to true")
        if self.context > 1 and self.ulysses > 1:
            raise ValueError("'context' and 'ulysses' are two ways to share a window: leave one of them out")
        return self
