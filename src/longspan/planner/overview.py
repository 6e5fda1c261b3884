"""Everything that `longspan plan` tells of one model and one target, put together."""

from __future__ import annotations

import copy
import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, get_args

import torch
from transformers import PreTrainedModel

from longspan import surgery
from longspan.errors import LengthError
from longspan.planner.activations import Work, peak_bytes, works_of
from longspan.planner.assess import Assessment, assess_all
from longspan.planner.frequencies import Pair, pairs
from longspan.planner.memory import CacheKind, Memory, cache_bytes, doublings, weight_bytes
from longspan.planner.recommend import Recommendation, recommend
from longspan.planner.servers import SERVERS, Acceptance, Server, accepts
from longspan.registry import PLAIN, format_methods, name_of
from longspan.surgery import Plan
from longspan.surgery.families import family_of

Caches = dict[CacheKind, dict[str, dict[int, int]]]
"""Bytes of every kind of cache by dtype and length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkMemory:
    """Bytes that one way of running the model takes at the target length, beside the weights."""

    work: Work
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What extending one model to one length would take and give."""

    original_length: int
    target_length: int
    in_force: str
    """Methods that the model came with."""
    extended_to: int | None
    """Tokens an earlier extension reaches; None for a model that is not extended."""
    assessments: tuple[Assessment, ...]
    recommendation: Recommendation
    plan: Plan
    """Of the methods asked for, else of those recommended."""
    pairs: tuple[Pair, ...]
    dtype: torch.dtype
    memory: tuple[Memory, ...]
    """At the original length, its doublings and the target."""
    caches: Caches
    works: tuple[WorkMemory, ...]
    servers: tuple[Acceptance, ...]

    @property
    def factor(self) -> float:
        """Target over trained length."""
        return self.target_length / self.original_length

    def to_json(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        return {
            "original_length": self.original_length,
            "target_length": self.target_length,
            "factor": self.factor,
            "in_force": self.in_force,
            "extended_to": self.extended_to,
            "methods": [dataclasses.asdict(item) for item in self.assessments],
            "recommendation": dataclasses.asdict(self.recommendation),
            "plan": self.plan.to_json(),
            "frequencies": [{**dataclasses.asdict(pair), "slowed": pair.slowed} for pair in self.pairs],
            "dtype": str(self.dtype).removeprefix("torch."),
            "memory": [{**dataclasses.asdict(row), "total": row.total} for row in self.memory],
            "caches": self.caches,
            "works": [{**dataclasses.asdict(row.work), "bytes": row.bytes} for row in self.works],
            "servers": [dataclasses.asdict(answer) for answer in self.servers],
        }


def overview(
    outline: PreTrainedModel,
    target_length: int,
    *,
    methods: str | None = None,
    original_length: int | None = None,
    dtype: torch.dtype | None = None,
    train: bool | None = None,
    serve: Server = "transformers",
) -> Overview:
    """Plan an extension of a model that has no weights.

    Args:
        outline: on the meta device, plain or patched; it stays as it is.
        methods: what to look at; None takes what is recommended.
        original_length: tokens the model was trained on, if its config does not tell.
        dtype: of weights, cache and activations; None takes the model's own.
        train: see `recommend`.
        serve: the server that the recommendation must suit.

    Raises:
        FamilyError, MethodError, LengthError: the model or the methods asked for cannot be planned.
    """
    family_of(outline)  # an unknown family is refused by name before anything else is asked of it
    original = original_length or surgery.original_length(outline)
    if target_length < original:
        raise LengthError(f"--target-length {target_length} is shorter than the trained length {original}: give more")
    assessments = assess_all(outline, target_length, original)
    present = surgery.target_length(outline) if surgery.is_extended(outline) else original
    carry_out = functools.partial(_carried_out, outline, target_length, original)
    recommendation = recommend(
        assessments,
        factor=target_length / original,
        in_force=[name_of(method) for method in surgery.current_methods(outline)],
        reaches_already=target_length <= present,
        train=train,
        served=lambda name: accepts(serve, *carry_out(name)).accepted,
    )
    model, plan = carry_out(methods or recommendation.method)
    kind = dtype or outline.dtype
    lengths = doublings(original, target_length)
    usual, *others = works_of(model)
    peaks = {length: peak_bytes(model, length, kind, usual) for length in lengths}
    at_target = {usual: peaks[target_length]} | {work: peak_bytes(model, target_length, kind, work) for work in others}
    return Overview(
        original_length=original,
        target_length=target_length,
        in_force=format_methods(surgery.current_methods(outline)),
        extended_to=present if surgery.is_extended(outline) else None,
        assessments=tuple(assessments),
        recommendation=recommendation,
        plan=plan,
        pairs=tuple(pairs(plan)),
        dtype=kind,
        memory=tuple(_memory(model, plan, length, kind, peak) for length, peak in peaks.items()),
        caches=_caches(model, plan, lengths, kind),
        works=tuple(WorkMemory(work=work, bytes=peak) for work, peak in at_target.items()),
        servers=tuple(accepts(server, model, plan) for server in SERVERS),
    )


def _carried_out(outline: PreTrainedModel, target: int, original: int, methods: str) -> tuple[PreTrainedModel, Plan]:
    """A copy of the outline with the methods in it, and their plan."""
    model = copy.deepcopy(outline)
    lengths = {"target_length": target, "original_length": original}
    if methods.strip() in PLAIN:  # its own target stays
        return model, surgery.plan(model, ())
    patch = surgery.extend(model, methods, **lengths, again=surgery.is_extended(outline))
    return model, patch.plan


def _memory(model: PreTrainedModel, plan: Plan, length: int, dtype: torch.dtype, peak: int) -> Memory:
    cache = cache_bytes(model.config, plan, length, dtype)
    return Memory(length=length, weights=weight_bytes(model, dtype), cache=cache, prefill=peak - cache)


def _caches(model: PreTrainedModel, plan: Plan, lengths: list[int], dtype: torch.dtype) -> Caches:
    return {
        kind: {
            str(each).removeprefix("torch."): {
                length: cache_bytes(model.config, plan, length, each, kind) for length in lengths
            }
            for each in dict.fromkeys((torch.float32, torch.bfloat16, dtype))
        }
        for kind in get_args(CacheKind)
    }
