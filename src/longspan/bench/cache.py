"""What the cache of un-rotated keys costs and saves: bytes, and the time of a decoding step, by length."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from longspan.bench.paired import ratio, take_turns
from longspan.bench.settings import BenchSettings
from longspan.records import Record
from longspan.surgery import CollinearCache
from longspan.train.sizes import build_model

LENGTHS = (1024, 4096, 16384)
CHUNK = 1024
"""Tokens of one step of the prefill, so that it fits in memory."""
BASELINE, CONTESTANT = "DynamicCache", "CollinearCache"


@torch.no_grad()
def cache_costs(settings: BenchSettings) -> Iterator[Record]:
    """Ratios of CollinearCache to transformers' own, both under exact CoCA: bytes of K, bytes of K and V, one step."""
    model = build_model("llama", "3m", 1024, 256, 10000.0, "coca", settings.seed).to(settings.device, settings.dtype)
    for length in settings.chosen(LENGTHS):
        caches: dict[str, Cache] = {
            BASELINE: DynamicCache(config=model.config),
            CONTESTANT: CollinearCache(model.config),
        }
        ids = torch.randint(0, 1024, (1, length)).to(settings.device)
        for cache in caches.values():
            for part in ids.split(CHUNK, dim=1):
                model(part, past_key_values=cache, logits_to_keep=1)
        for what, parts in {"K": ("keys",), "K and V": ("keys", "values")}.items():
            sizes = {name: _bytes(cache, parts) for name, cache in caches.items()}
            yield _record(f"cache bytes, {what}", sizes[CONTESTANT] / sizes[BASELINE], length)
        steps = {name: settings.finished(_step(model, cache)) for name, cache in caches.items()}
        found = ratio(
            take_turns(steps, seconds=settings.seconds, label=f"decode {length}", progress=settings.progress),
            CONTESTANT,
            BASELINE,
        )
        yield found.record("decode", length)


def _step(model: PreTrainedModel, cache: Cache) -> Callable[[], object]:
    token = torch.ones(1, 1, dtype=torch.long, device=model.device)

    @torch.no_grad()
    def step() -> None:
        model(token, past_key_values=cache)
        cache.crop(-1)

    return step


def _bytes(cache: Cache, parts: tuple[str, ...]) -> int:
    return sum(getattr(layer, part).nbytes for layer in cache.layers for part in parts)


def _record(task: str, value: float, length: int) -> Record:
    method = f"{CONTESTANT} / {BASELINE}"
    return Record(
        run="benchmarks", method=method, model=CONTESTANT, task=task, metric="ratio", value=value, n=1, length=length
    )
