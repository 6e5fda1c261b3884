"""Numbers: precision, overflow, gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import longspan as ls
from conftest import TRAIN_LENGTH
from doctor.faults.fault import fault
from doctor.faults.tools import by_transformers, change_rotation, rotary_of, sites_of, turn_by
from longspan.surgery.rotary import Rotation


@fault("yarn", "angles")
def angles_in_bfloat16(model: Any, _: Any) -> None:
    """Positions and frequencies are multiplied in bf16, which counts exactly only to 256."""

    def rounded(rotation: Rotation, positions: Tensor) -> Rotation:
        angles = (positions[..., None].bfloat16() * rotation.omega.bfloat16()).float()
        return rotation._replace(cos=angles.cos(), sin=angles.sin())

    change_rotation(model, rounded)


@fault("", "frequencies", "angles")
def tables_cast_with_the_model(model: Any, _: Any) -> PreTrainedModel:
    """A model that was cast by .bfloat16() has cast its frequencies too."""
    return by_transformers(model, TRAIN_LENGTH, rope_type="linear", rope_theta=10000.0, factor=4.0).bfloat16()


@fault("yarn", "frequencies")
def frequencies_in_float16(model: Any, _: Any) -> None:
    """Frequencies were truncated to float16 on their way."""
    method = rotary_of(model).slots.frequency
    turn_by(model, lambda window: method.frequency(window).half().double())


@fault("yarn", "finite")
def overflow_far_out(model: Any, _: Any) -> None:
    """Numbers overflow at late positions only."""

    def overflow(rotation: Rotation, positions: Tensor) -> Rotation:
        return rotation._replace(tau=torch.where(positions > 3 * TRAIN_LENGTH, torch.inf, rotation.tau))

    change_rotation(model, overflow)


@fault("coca", "gradient")
def feature_detached(model: Any, _: Any) -> None:
    """The feature of the key is made without a gradient, so that the key projection never trains."""

    class Detached(ls.Coca):
        __slots__ = ()

        def psi(self, k: Tensor, layout: Any, parameters: Any) -> Tensor:
            return ls.Coca.psi(self, k, layout, parameters).detach()

    for site in sites_of(model):
        site.slots = replace(site.slots, feature=Detached())


@fault("pope", "gradient")
def phase_detached(model: Any, _: Any) -> None:
    """The learned phase is read by its numbers only."""

    class Detached(ls.PoPE):
        __slots__ = ()

        def psi(self, k: Tensor, layout: Any, parameters: Any) -> Tensor:
            return ls.PoPE.psi(self, k, layout, {name: value.detach() for name, value in parameters.items()})

    for site in sites_of(model):
        site.slots = replace(site.slots, feature=Detached())
