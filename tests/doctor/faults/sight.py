"""A token sees what it should not, or not what it should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import longspan as ls
from doctor.faults.fault import fault
from doctor.faults.tools import change_inputs, sites_of


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


@fault("select_merge(region=4,top=16,merge=4)", "causality", "cached_decode")
def groups_choose_by_their_own_queries(model: Any, _: Any) -> None:
    """Groups choose what they see by all their own queries: later tokens decide, as in the draft of the method."""
    for site in sites_of(model):
        site.slots = replace(site.slots, selection=replace(site.slots.selection, routing="lookahead"))


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
