"""The change is not the one that was meant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

import longspan as ls
from conftest import TRAIN_LENGTH
from doctor.faults.fault import TARGET, fault
from doctor.faults.tools import by_transformers, change_rotation, rotary_of, sites_of, turn_by
from longspan.equation import Slots, Window
from longspan.surgery.rotary import Rotation


@fault("", "rope_theta", against=True, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
def lost_theta(model: Any, _: Any) -> PreTrainedModel:
    """rope_scaling replaced the whole dictionary, and rope_theta fell back to 10,000."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAIN_LENGTH}
    return by_transformers(model, rope_theta=10000.0, **rope)


@fault("yarn", "rope_theta")
def theta_missing_in_config(model: Any, _: Any) -> None:
    """rope_parameters was replaced on the extended model and has no rope_theta."""
    model.config.rope_parameters = {"rope_type": "default"}


@fault("", "frequencies", "in_effect")
def config_edited_after_load(model: Any, _: Any) -> None:
    """rope_parameters were set on a model that was built before: the tables stayed."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAIN_LENGTH}
    model.config.rope_parameters = {**model.config.rope_parameters, **rope}
    model.config.max_position_embeddings = TARGET


@fault("", "in_effect", against=True)
def setting_without_effect(model: Any, _: Any) -> None:
    """Long context was switched on by an option that nothing reads."""
    model.config.rope_scaling_factor = 4.0


@fault("pi", "frequencies", "in_effect", "attention_scores")
def factor_ignored(model: Any, _: Any) -> None:
    """The method is in force, its factor is not: every pair turns as before."""
    turn_by(model, lambda window: window.omega)


@fault("pi", "frequencies", "attention_scores")
def applied_twice(model: Any, _: Any) -> None:
    """A model that was scaled already was scaled again."""
    turn_by(model, lambda window: window.omega / window.factor**2)


@fault("yarn", "frequencies", "attention_scores")
def ramp_inverted(model: Any, _: Any) -> None:
    """YaRN's blend is the wrong way round: fast pairs are interpolated, slow ones kept."""
    method = rotary_of(model).slots.frequency
    turn_by(model, lambda window: window.omega + window.omega / window.factor - method.frequency(window))


@fault("yarn", "formula")
def ramp_inverted_in_the_method(model: Any, monkeypatch: Any) -> None:
    """The same in the method's own file, so that the config and the model agree with it."""
    by_index = ls.Yarn._by_index
    monkeypatch.setattr(ls.Yarn, "_by_index", lambda self, window: 1 - by_index(self, window))


@fault("yarn", "formula")
def temperature_not_squared(model: Any, monkeypatch: Any) -> None:
    """The method's temperature is on the logits once, although cos and sin each carry it."""
    scale = ls.Yarn.scale
    monkeypatch.setattr(ls.Yarn, "scale", lambda self, window, positions: scale(self, window, positions).sqrt())


@fault("ntk", "formula")
def ntk_exponent_wrong(model: Any, monkeypatch: Any) -> None:
    """The base is raised by the factor itself instead of factor^(R/(R-2))."""
    from longspan.methods.frequency.ntk import frequencies_of_base

    def frequency(self: Any, window: Window) -> Tensor:
        return frequencies_of_base(window.base * window.factor, window.rotary_dim)

    monkeypatch.setattr(ls.Ntk, "frequency", frequency)


@fault("yarn", "frequencies", "attention_scores")
def tables_for_another_length(model: Any, _: Any) -> None:
    """The tables were made for another original length than the config says."""
    rotary = rotary_of(model)
    rotary.window = replace(rotary.window, original_length=TRAIN_LENGTH // 2)


@fault("", "original_length", against=True)
def original_length_wrong(model: Any, _: Any) -> None:
    """The extension was told a trained length that the base model does not have."""
    ls.extend(model, "yarn", target_length=TARGET, original_length=TRAIN_LENGTH // 2)


@fault("", "original_length")
def original_length_missing(model: Any, _: Any) -> PreTrainedModel:
    """yarn without original_max_position_embeddings takes the target for the trained length."""
    other = by_transformers(model, rope_type="yarn", rope_theta=10000.0, factor=4.0)
    other.config.rope_parameters.pop("original_max_position_embeddings", None)
    return other


@fault("yarn", "settings_kept", against=True)
def another_setting_lost(model: Any, _: Any) -> None:
    """The config was written anew, and rms_norm_eps fell back to the library's default."""
    model.config.rms_norm_eps = 1e-5


@fault("dynamic_ntk(factor=4.0)", "short_inputs")
def base_raised_for_short_inputs(model: Any, _: Any) -> None:
    """Dynamic NTK takes the base of the target length for inputs inside the trained window too."""
    method = rotary_of(model).slots.frequency
    turn_by(model, lambda window: method.frequency(window.at(window.target_length)))


@fault("yarn", "attention_scores")
def temperature_missing(model: Any, _: Any) -> None:
    """YaRN's frequencies without its temperature."""
    change_rotation(model, lambda rotation, _: rotation._replace(tau=None))


@fault("yarn", "attention_scores")
def temperature_twice(model: Any, _: Any) -> None:
    """The temperature is in cos and sin and in the softmax scale again."""
    change_rotation(model, lambda rotation, _: rotation._replace(tau=rotation.tau**2))  # type: ignore[operator]


@fault("yarn", "attention_scores")
def temperature_on_queries_only(model: Any, _: Any) -> None:
    """Its square root is on q alone, so that logits get the root of what they should get."""
    change_rotation(model, lambda rotation, _: rotation._replace(tau=rotation.tau**0.5))  # type: ignore[operator]


@fault("log_n", "attention_scores")
def tau_on_keys_only(model: Any, _: Any) -> None:
    """The factor of a query is put on the keys, by the position of the key."""
    seen: list[Tensor] = []

    def without(rotation: Rotation, _: Tensor) -> Rotation:
        seen[:] = [rotation.tau]  # type: ignore[list-item]
        return rotation._replace(tau=None)

    change_rotation(model, without)
    for layer in model.base_model.layers:
        layer.self_attn.k_proj.register_forward_hook(lambda _module, _args, output: output * seen[0][..., None])


@fault("yarn", "attention_scores")
def softmax_scale_changed(model: Any, _: Any) -> None:
    """A layer's softmax scale is not 1/sqrt(D) any more."""
    model.base_model.layers[1].self_attn.scaling *= 1.2


@fault("coca", "attention_scores")
def one_layer_left_out(model: Any, _: Any) -> None:
    """Only some layers got the method."""
    sites_of(model)[1].slots = Slots()


@fault("yarn", "attention_scores")
def pair_layout_wrong(model: Any, _: Any) -> None:
    """Interleaved pairs are rotated in a model whose pairs are halves."""
    for site in sites_of(model):
        site.layout = "interleaved"


@fault("coca", "attention_scores")
def tie_in_another_layout(model: Any, _: Any) -> None:
    """CoCA ties the members of a pair by the other layout than the rotation's."""

    class Crossed(ls.Coca):
        __slots__ = ()

        def psi(self, k: Tensor, layout: Any, parameters: Any) -> Tensor:
            return ls.Coca.psi(self, k, "interleaved" if layout == "half" else "half", parameters)

    for site in sites_of(model):
        site.slots = replace(site.slots, feature=Crossed())


@fault("alibi", "attention_scores")
def bias_dropped(model: Any, _: Any) -> None:
    """ALiBi's bias never reaches the logits, so that nothing is left of positions."""
    for site in sites_of(model):
        site.slots = replace(site.slots, bias=None)


@fault("yarn", "frequencies", family="gpt_neox")
def partial_rotary_ignored(model: Any, _: Any) -> None:
    """The whole head turns in a model that rotates half of it."""
    rotary = rotary_of(model)
    rotary.window = replace(rotary.window, rotary_dim=2 * rotary.window.rotary_dim)
    for site in sites_of(model):
        site.rotary_dim *= 2


@fault("dynamic_ntk(factor=4.0)", "attention_scores")
def keys_one_position_off(model: Any, monkeypatch: Any) -> None:
    """Keys are turned to the position after their own."""
    of_keys = Rotation.of_keys
    monkeypatch.setattr(Rotation, "of_keys", lambda self, positions: of_keys(self, positions + 1))
