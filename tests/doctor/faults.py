"""Planted faults: each one breaks a healthy extended model the way a real mistake does.

A fault is a function that sabotages a model in place, or returns another one. What it replaces outside the model it
replaces by the monkeypatch that it is given, so that everything is as before afterwards.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import longspan as ls
from conftest import TRAIN_LENGTH, make_model
from longspan.equation import Frequency, Slots, Window
from longspan.surgery.rotary import Rotation

TARGET = 4 * TRAIN_LENGTH
Sabotage = Callable[[Any, pytest.MonkeyPatch], PreTrainedModel | None]


@dataclass(frozen=True)
class Fault:
    """One planted fault, the healthy model it is planted in, and the checks that must find it."""

    name: str
    sabotage: Sabotage
    methods: str
    caught_by: tuple[str, ...]
    family: str
    against: bool
    settings: dict[str, Any]

    @property
    def text(self) -> str:
        """What goes wrong, in one line."""
        return (inspect.getdoc(self.sabotage) or "").partition("\n")[0]

    @contextlib.contextmanager
    def planted(self) -> Iterator[tuple[PreTrainedModel, PreTrainedModel | None]]:
        """The sick model, and the plain one to compare it with where the fault needs that."""
        model = make_model(self.family, **self.settings)
        against = copy.deepcopy(model) if self.against else None
        if self.methods:
            ls.extend(model, self.methods, target_length=TARGET)
        with pytest.MonkeyPatch.context() as monkeypatch:
            yield self.sabotage(model, monkeypatch) or model, against


FAULTS: dict[str, Fault] = {}


def fault(
    methods: str, *caught_by: str, family: str = "llama", against: bool = False, **settings: Any
) -> Callable[[Sabotage], Sabotage]:
    """Register a fault of models extended by `methods` (none: a plain one), which these checks must find."""

    def register(sabotage: Any) -> Sabotage:
        name = sabotage.__name__
        FAULTS[name] = Fault(name, sabotage, methods, caught_by, family, against, settings)
        return sabotage

    return register


# --- tools


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


# --- the change is not the one that was meant


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


# --- what a token may see


@fault("yarn", "causality")
def looks_ahead(model: Any, monkeypatch: Any) -> None:
    """The mask lets each token see the next one."""

    def shifted(**kwargs: Any) -> Any:
        inner = kwargs.pop("mask_function")
        ahead = {**kwargs, "mask_function": lambda b, h, q, k: inner(b, h, q + 1, k), "allow_is_causal_skip": False}
        return sdpa_mask(**ahead)

    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "ahead", shifted)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "ahead", sdpa_attention_forward)
    model.config._attn_implementation = "ahead"


@fault("yarn", "mask_function", "causality")
def attention_without_mask_function(model: Any, monkeypatch: Any) -> None:
    """A custom attention name is not in the mask registry: no mask is built, and every token sees the future."""

    def bidirectional(module: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["is_causal"] = False
        return sdpa_attention_forward(module, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "unmasked", bidirectional)
    model.config._attn_implementation = "unmasked"


@fault("yarn", "sdpa_equals_eager")
def sdpa_scales_otherwise(model: Any, monkeypatch: Any) -> None:
    """The fast path forgets the model's softmax scale."""

    def scaled(module: Any, *args: Any, **kwargs: Any) -> Any:
        forgotten = {"scaling": None} if hasattr(module, "longspan") else {}
        return sdpa_attention_forward(module, *args, **{**kwargs, **forgotten})

    for layer in model.base_model.layers:
        layer.self_attn.scaling *= 1.2
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", scaled)


@fault("coca", "shift_invariance", "attention_scores")
def slack_sold_as_exact(model: Any, _: Any) -> None:
    """The config says exact CoCA, the layers compute the slack form, which depends on absolute positions."""
    for site in sites_of(model):
        site.slots = replace(site.slots, feature=ls.Coca(form="slack"))


@fault("yarn", "padding_left")
def padding_mask_dropped(model: Any, _: Any) -> None:
    """attention_mask is accepted and not used."""
    change_inputs(model, lambda kwargs: kwargs.pop("attention_mask", None))


@fault("coca(form='slack')", "padding_left", "padding_right")
def padding_counted_in_positions(model: Any, _: Any) -> None:
    """Positions count padding, in a method for which absolute positions matter."""

    def change(kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() == 2 and not mask.all():
            kwargs["position_ids"] = torch.arange(kwargs["position_ids"].shape[1])[None] + kwargs["position_ids"].max()

    change_inputs(model, change)


@fault("yarn", "packing")
def packed_documents_leak(model: Any, _: Any) -> None:
    """A mask of ones is made where there was none, so that packed documents see each other."""

    def change(kwargs: dict[str, Any]) -> None:
        if kwargs.get("attention_mask") is None and kwargs.get("past_key_values") is None and "position_ids" in kwargs:
            kwargs["attention_mask"] = torch.ones_like(kwargs["position_ids"])

    change_inputs(model, change)


@fault("yarn", "position_jumps")
def jumps_read_as_borders(model: Any, _: Any) -> None:
    """A mask of ones is left out as needless, and every jump in the positions becomes the border of a document."""

    def change(kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() == 2 and mask.all():
            del kwargs["attention_mask"]

    change_inputs(model, change)


# --- caches


@fault("", "stale_keys", "no_memory")
def dynamic_by_transformers(model: Any, _: Any) -> PreTrainedModel:
    """transformers' own dynamic NTK: cached keys keep the base of their time, and a long input raises it for good."""
    return by_transformers(model, TRAIN_LENGTH, rope_type="dynamic", rope_theta=10000.0, factor=4.0)


@fault("dynamic_ntk(factor=4.0)", "stale_keys")
def keys_turned_by_an_old_base(model: Any, _: Any) -> None:
    """Keys are turned by the frequencies of the first pass, whatever the length is by now."""
    first: list[Tensor] = []

    def keep(rotation: Rotation, positions: Tensor) -> Rotation:
        first[:] = first if positions.shape[1] == 1 and first else [rotation.omega]
        cached = rotation._replace(omega=first[0], key_tables={})
        return rotation._replace(key_tables=_Fixed(cached, positions))

    change_rotation(model, keep)


class _Fixed(dict):
    """Tables of keys that were made from other frequencies."""

    def __init__(self, rotation: Rotation, positions: Tensor):
        last = int(positions.max())
        for keys in range(positions.shape[1], last + 2):
            spread = torch.arange(last + 1 - keys, last + 1)[None]
            self[keys] = Rotation.of_keys(rotation._replace(key_tables={}), spread)


@fault("dynamic_ntk(factor=4.0)", "no_memory")
def base_never_shrinks(model: Any, _: Any) -> None:
    """The base follows the longest input so far and not the present one."""
    method = rotary_of(model).slots.frequency
    longest = [0]

    def sticky(window: Window) -> Tensor:
        longest[0] = max(longest[0], window.length or 0)
        return method.frequency(window.at(longest[0]))

    turn_by(model, sticky)


@fault("yarn", "cached_decode", "decode_across")
def decoding_one_position_off(model: Any, _: Any) -> None:
    """Positions of cached decoding are one too far."""

    def change(kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            kwargs["position_ids"] = kwargs["position_ids"] + 1

    change_inputs(model, change)


@fault("yarn", "cached_decode")
def decoding_positions_restart(model: Any, _: Any) -> None:
    """Each piece that is read through a cache counts its positions from 0."""

    def change(kwargs: dict[str, Any]) -> None:
        if kwargs.get("past_key_values") is not None:
            kwargs["position_ids"] = torch.arange(kwargs["position_ids"].shape[1])[None]

    change_inputs(model, change)


@fault("yarn", "decode_across")
def tables_change_at_the_original_length(model: Any, _: Any) -> None:
    """Short inputs turn by the plain frequencies, and keys cached then stay as they are."""
    rotary = rotary_of(model)

    def choose(rotation: Rotation, positions: Tensor) -> Rotation:
        if int(positions.max()) >= TRAIN_LENGTH:
            return rotation
        angles = positions[..., None].double() * rotary.window.omega
        return rotation._replace(cos=angles.cos().float(), sin=angles.sin().float())

    change_rotation(model, choose)


@fault("yarn", "cropped_cache")
def positions_counted_beside_the_cache(model: Any, _: Any) -> None:
    """The model counts decoded tokens itself and does not notice that the cache was cut back."""
    count = [0]

    def change(kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        if cache is None:
            return
        start = count[0] if cache.get_seq_length() else 0
        length = kwargs["position_ids"].shape[1]
        kwargs["position_ids"] = torch.arange(start, start + length)[None]
        count[0] = start + length

    change_inputs(model, change)


# --- numbers


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


# --- what leaves the process


def edit_saved_config(monkeypatch: Any, model: Any, edit: Callable[[dict[str, Any]], None]) -> None:
    save = type(model).save_pretrained

    def saved(self: Any, folder: Path, **kwargs: Any) -> None:
        save(self, folder, **kwargs)
        path = Path(folder) / "config.json"
        config = json.loads(path.read_text())
        edit(config)
        path.write_text(json.dumps(config))

    monkeypatch.setattr(type(model), "save_pretrained", saved)


@fault("coca+yarn", "save_and_load", "plain_reload")
def method_lost_when_saved(model: Any, monkeypatch: Any) -> None:
    """config.json names the plain model, so that it loads without the method and without a word."""

    def edit(config: dict[str, Any]) -> None:
        del config["longspan"]
        config["model_type"] = "llama"

    edit_saved_config(monkeypatch, model, edit)


@fault("yarn", "plain_reload")
def saved_under_a_plain_type(model: Any, monkeypatch: Any) -> None:
    """The methods are in config.json, under a model_type by which transformers ignores them."""
    edit_saved_config(monkeypatch, model, lambda config: config.update(model_type="llama"))


@fault("yarn", "save_and_load")
def settings_lost_when_saved(model: Any, monkeypatch: Any) -> None:
    """The method is saved without its settings and comes back with the defaults of another version."""
    edit_saved_config(monkeypatch, model, lambda config: config["longspan"]["methods"][0].update(beta_fast=16.0))


@fault("pope", "save_and_load")
def learned_tensors_lost_when_saved(model: Any, monkeypatch: Any) -> None:
    """What the feature has learned is not in the file and starts afresh."""
    for name, parameter in model.named_parameters():
        if name.endswith("phase"):
            parameter.data.fill_(-1.0)
    save = type(model).save_pretrained

    def saved(self: Any, folder: Path, **kwargs: Any) -> None:
        weights = {name: value for name, value in self.state_dict().items() if not name.endswith("phase")}
        save(self, folder, state_dict=weights, **kwargs)

    monkeypatch.setattr(type(model), "save_pretrained", saved)


@fault("yarn", "server_length")
def length_not_updated(model: Any, _: Any) -> None:
    """max_position_embeddings is still the original length: servers refuse longer inputs."""
    model.config.max_position_embeddings = TRAIN_LENGTH


@fault("", "server_length", against=True)
def length_multiplied_twice(model: Any, _: Any) -> PreTrainedModel:
    """max_position_embeddings is the target of a type that vLLM multiplies by its factor once more."""
    return by_transformers(model, TARGET, rope_type="linear", rope_theta=10000.0, factor=4.0)
