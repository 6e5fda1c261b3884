"""What the cache of un-rotated keys costs and saves: bytes, and the time of a decoding step, by length and batch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from longspan.bench.limits import machine
from longspan.bench.paired import ratio, take_turns
from longspan.bench.settings import BenchSettings
from longspan.records import Record
from longspan.surgery import CollinearCache
from longspan.surgery.growing import GrowingLayer
from longspan.surgery.site import with_positions
from longspan.train.sizes import build_model, build_plain_model

LENGTHS = (1024, 4096, 16384, 32768, 65536)
BATCHES = (1, 8)
MOST = 1 << 18
"""Cached tokens over all rows, for all caches to fit in memory."""
BASELINE, CONTESTANT = "DynamicCache", "CollinearCache"
ROPE, ROPE_IN_PLACE, COCA, HALF = "rope", "rope, in place", "coca", "coca, half width"
"""transformers' own model and cache; that model with our layers that copy nothing; exact CoCA with either cache."""


@torch.no_grad()
def cache_costs(settings: BenchSettings) -> Iterator[Record]:
    """Bytes of CollinearCache to transformers' own; steps of exact CoCA to those of transformers' Llama."""
    shape = ("llama", "3m", 1024, 256, 10000.0)
    plain, coca = (
        model.to(settings.device, settings.dtype).eval()
        for model in (build_plain_model(*shape, settings.seed), build_model(*shape, "coca", settings.seed))
    )
    bandwidth = max(machine(settings.device, settings.dtype).bandwidths)
    for batch in BATCHES:
        for length in (length for length in settings.chosen(LENGTHS) if batch * length <= MOST):
            layers = range(plain.config.num_hidden_layers)
            caches = {
                ROPE: (plain, DynamicCache(config=plain.config)),
                ROPE_IN_PLACE: (plain, Cache(layers=[GrowingLayer() for _ in layers])),
                COCA: (coca, DynamicCache(config=coca.config)),
                HALF: (coca, CollinearCache(coca.config)),
            }
            for name, (model, cache) in caches.items():
                fill(model, cache, batch, length, half=name == HALF)
            if batch == 1:
                for what, parts in {"K": ("keys",), "K and V": ("keys", "values")}.items():
                    value = _bytes(caches[HALF][1], parts) / _bytes(caches[COCA][1], parts)
                    yield _record(f"cache bytes, {what}", f"{CONTESTANT} / {BASELINE}", CONTESTANT, value, length)
            task = f"decode, batch {batch}"
            steps = {name: settings.finished(_step(model, cache, batch)) for name, (model, cache) in caches.items()}
            times = take_turns(steps, seconds=settings.seconds, label=f"{task}, {length}", progress=settings.progress)
            for contestant, baseline in ((HALF, ROPE), (COCA, ROPE), (HALF, ROPE_IN_PLACE)):
                found = ratio(times, contestant, baseline)
                yield found.record(task, length)
            for name, (model, cache) in caches.items():
                must = _bytes(cache, ("keys", "values")) + sum(weight.nbytes for weight in model.parameters())
                share = must / bandwidth / statistics.median(times[name])
                yield replace(_record(task, name, name, share, length), metric="share of limit")
            del caches, steps


def fill(model: PreTrainedModel, cache: Cache, batch: int, length: int, *, half: bool) -> None:
    """Put keys and values of `length` random tokens into each layer, as a prefill would leave them.

    Args:
        half: un-rotated keys of half width with their positions.
    """
    config = model.config
    heads, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    positions = torch.arange(length, device=model.device).expand(batch, -1)
    for layer in cache.layers:
        key, value = (
            torch.rand(batch, heads, length, size, device=model.device, dtype=model.dtype)
            for size in (width // 2 if half else width, width)
        )
        layer.update(with_positions(key, positions, 0) if half else key, value)


def _step(model: PreTrainedModel, cache: Cache, batch: int) -> Callable[[], object]:
    token = torch.ones(batch, 1, dtype=torch.long, device=model.device)

    @torch.no_grad()
    def step() -> None:
        model(token, past_key_values=cache)
        cache.crop(-1)

    return step


def _bytes(cache: Cache, parts: tuple[str, ...]) -> int:
    return sum(getattr(layer, part).nbytes for layer in cache.layers for part in parts)


def _record(task: str, method: str, model: str, value: float, length: int) -> Record:
    return Record(
        run="benchmarks", method=method, model=model, task=task, metric="ratio", value=value, n=1, length=length
    )
