"""What sabotage is done with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from doctor.faults.fault import TARGET
from longspan.equation import Frequency, Window
from longspan.surgery.rotary import Rotation


def rotary_of(model: Any) -> Any:
    return model.base_model.rotary_emb


def sites_of(model: Any) -> list[Any]:
    return [module.longspan for module in model.modules() if hasattr(module, "longspan")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turning(Frequency):
    """Frequencies by any function of the window."""

    function: Any
    grows: bool

    def changes_with_length(self) -> bool:
        return self.grows

    def frequency(self, window: Window) -> Tensor:
        return self.function(window)


def turn_by(model: Any, function: Callable[[Window], Tensor]) -> None:
    """Let the rotary module turn by other frequencies than the config says."""
    frequency = object.__new__(Turning)  # whose settings are none that a method could have
    object.__setattr__(frequency, "function", function)
    object.__setattr__(frequency, "grows", rotary_of(model).slots.follows_length())
    rotary_of(model).slots = replace(rotary_of(model).slots, frequency=frequency)


def change_rotation(model: Any, change: Callable[[Rotation, Tensor], Rotation]) -> None:
    """Let something happen to cos, sin and tau on their way."""
    rotary = rotary_of(model)
    forward = rotary.forward

    def changed(x: Tensor, position_ids: Tensor, *args: Any) -> Rotation:
        return change(forward(x, position_ids, *args), position_ids)

    rotary.forward = changed


def change_inputs(model: Any, change: Callable[[dict[str, Any]], None]) -> None:
    """Let something happen to the keyword arguments of the model."""
    forward = model.forward

    def changed(input_ids: Tensor, **kwargs: Any) -> Any:
        change(kwargs)
        return forward(input_ids, **kwargs)

    model.forward = changed


def by_transformers(model: Any, length: int = TARGET, **rope: Any) -> LlamaForCausalLM:
    """The same weights built anew by transformers with these rope parameters."""
    settings = {name: value for name, value in model.config.to_dict().items() if name != "rope_parameters"}
    config = LlamaConfig(**{**settings, "max_position_embeddings": length, "rope_parameters": rope})
    other = LlamaForCausalLM(config).eval()
    other.load_state_dict(model.state_dict())
    return other
