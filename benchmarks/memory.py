"""The planner's bytes against those that are really allocated, by family, length, dtype and kind of work."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

import longspan
from longspan.bench.memory import allocated_peak
from longspan.bench.settings import BenchSettings
from longspan.planner.activations import Work, peak_bytes, works_of
from longspan.planner.memory import CacheKind, cache_bytes
from longspan.records import Record
from longspan.surgery import CollinearCache
from longspan.surgery.families import FAMILIES

LENGTHS = (256, 1024)
DTYPES = (torch.float32, torch.bfloat16)
_COMMON: dict[str, Any] = {
    "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2,
    "num_attention_heads": 8, "max_position_embeddings": max(LENGTHS), "pad_token_id": 0,
}  # fmt: skip
_GROUPED = {**_COMMON, "num_key_value_heads": 4}
_GEMMA = {**_GROUPED, "head_dim": 32, "sliding_window": 128}
_SETTINGS = {
    "llama": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 32},
    "gemma2": _GEMMA,
    "gemma3_text": {**_GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": _GROUPED,
    "gpt_neox": _COMMON,
    "mixtral": {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
}
"""Small models of several families, large enough that a kernel's own workspace is little beside their activations."""
METHODS = ("rope", "coca", "pope", "dynamic_ntk")
"""Methods that keep other keys, in the first family; the others are measured plain."""


def memory_costs(settings: BenchSettings) -> Iterator[Record]:
    """Measured and predicted bytes of each kind of work, beside the weights, and of caches; of no setting's making."""
    del settings
    for family in _SETTINGS:
        for dtype in DTYPES:
            for length in LENGTHS:
                for work in works_of(_model(family, dtype)):
                    yield from _pair(f"{work}", family, "rope", dtype, length, *_peaks(family, dtype, length, work))
                for method in METHODS if family == "llama" else METHODS[:1]:
                    for kind, numbers in _caches(family, dtype, length, method).items():
                        yield from _pair(f"cache, {kind}", family, method, dtype, length, *numbers)


def _pair(
    task: str, family: str, method: str, dtype: torch.dtype, length: int, predicted: int, measured: int
) -> Iterator[Record]:
    task = f"{task}, {str(dtype).removeprefix('torch.')}"
    for metric, value in (("bytes", measured), ("predicted bytes", predicted)):
        yield Record(
            run="benchmarks", method=method, model=family, task=task, metric=metric, value=value, length=length
        )


def _model(family: str, dtype: torch.dtype) -> PreTrainedModel:
    row = FAMILIES[family]
    torch.manual_seed(0)
    return row.model_class(row.config_class(**copy.deepcopy(_SETTINGS[family]))).to(dtype)


def _peaks(family: str, dtype: torch.dtype, length: int, work: Work) -> tuple[int, int]:
    model = _model(family, dtype)
    predicted = peak_bytes(copy.deepcopy(model).to("meta"), length, dtype, work)
    tokens = torch.zeros(1, length, dtype=torch.long)
    return predicted, allocated_peak(lambda: work.run(model, tokens))


@torch.no_grad()
def _caches(family: str, dtype: torch.dtype, length: int, method: str) -> dict[str, tuple[int, int]]:
    """Predicted and real bytes of each kind of cache after `length` tokens."""
    model = _model(family, dtype)
    plan = longspan.extend(model, method, target_length=max(LENGTHS), original_length=min(LENGTHS)).plan
    made: dict[CacheKind, Cache] = {
        "dynamic": DynamicCache(config=model.config),
        "static": StaticCache(config=model.config, max_cache_len=length),
        "collinear": CollinearCache(model.config),
    }
    found: dict[str, tuple[int, int]] = {}
    for kind, cache in made.items():
        model(torch.zeros(1, length, dtype=torch.long), past_key_values=cache, logits_to_keep=1)
        measured = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        found[kind] = (cache_bytes(model.config, plan, length, dtype, kind), measured)
    return found
