"""Positions that depend on how far apart query and key are."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from doctor.faults.fault import fault
from doctor.faults.tools import change_rotation
from longspan.equation import Band
from longspan.surgery import banded
from longspan.surgery.rotary import Rotation


@fault("re_rope", "attention_scores", "in_effect")
def far_keys_where_they_stand(model: Any, _: Any) -> None:
    """The far band is lost, and every key keeps its distance: plain RoPE again."""
    everything = Band(lambda i: i * 0, lambda i: i, lambda i: i, lambda j: j)

    def lost(rotation: Rotation, _positions: Tensor) -> Rotation:
        return rotation._replace(bands=(everything,))

    change_rotation(model, lost)


@fault("self_extend(neighbors=16, group=4)", "attention_scores")
def groups_of_another_size(model: Any, _: Any) -> None:
    """Far keys are put into groups of five while queries count in groups of four."""

    def other(rotation: Rotation, _positions: Tensor) -> Rotation:
        near, far = rotation.bands
        return rotation._replace(bands=(near, far._replace(key=lambda j: j // 5)))

    change_rotation(model, other)


@fault("dual_chunk", "attention_scores")
def chunk_before_is_not_clamped(model: Any, _: Any) -> None:
    """Distances to the chunk before grow beyond the largest that the formula lets through."""

    def unclamped(rotation: Rotation, _positions: Tensor) -> Rotation:
        own, previous, older = rotation.bands
        farther = previous._replace(query=lambda i: own.query(i) + 10 * older.query(i))
        return rotation._replace(bands=(own, farther, older))

    change_rotation(model, unclamped)


@fault("re_rope", "causality")
def bands_see_the_future(_model: Any, monkeypatch: Any) -> None:
    """The near band reaches forward and nothing cuts it off."""
    right = banded.banded_attention

    def sees_all(q: Tensor, k: Tensor, v: Tensor, bands: Any, *turns: Any, **kwargs: Any) -> Tensor:
        near, *far = bands
        return right(q, k, v, (near._replace(last=lambda i: i + 5), *far), *turns, **{**kwargs, "causal": False})

    monkeypatch.setattr(banded, "banded_attention", sees_all)


@fault("streaming(recent=8)", "cached_decode")
def sinks_are_forgotten_in_decoding(model: Any, _: Any) -> None:
    """A step of decoding sees the recent tokens only."""

    def forgotten(rotation: Rotation, positions: Tensor) -> Rotation:
        return rotation._replace(bands=rotation.bands[:1]) if positions.shape[1] == 1 else rotation

    change_rotation(model, forgotten)
