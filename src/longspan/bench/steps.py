"""What a whole model's training step and prefill cost by length: CoCA and PoPE against transformers' own Llama.

Long inputs are read by a model of one layer, so that the processor's own attention takes seconds and not minutes; what
CoCA adds is a share of every layer alike.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from longspan.bench.contest import Call, Contest
from longspan.bench.fit import exponents
from longspan.bench.limits import machine, model_work
from longspan.bench.settings import BenchSettings
from longspan.records import Record
from longspan.train.sizes import Size, build_plain_model, find_size, install_methods

Task = Literal["train step", "prefill"]

VOCABULARY, BASE = 1024, 10000.0
ARMS = {"transformers": "", "coca": "coca", "coca-slack": "coca(form='slack')", "pope-half": "pope(width='half')"}
"""Methods by contestant; the first is transformers' own Llama, unpatched, on the same SDPA."""
BASELINE = "transformers"


@dataclass(frozen=True, slots=True)
class Shape:
    """A model, who is compared in it, and on which lengths."""

    size: str | Size
    tokens: int
    """Tokens of a batch, in windows of whatever length."""
    lengths: dict[Task, tuple[int, ...]]
    arms: tuple[str, ...] = tuple(ARMS)
    most: int | None = None
    """The longest input that it is given, whatever is asked for."""

    @property
    def name(self) -> str:
        """`llama, 6 layers of 192`."""
        size = find_size(self.size) if isinstance(self.size, str) else self.size
        return f"llama, {size.layers} layer{'s' if size.layers > 1 else ''} of {size.width}"


def _doubling(first: int, last: int) -> tuple[int, ...]:
    return tuple(first << power for power in range((last // first).bit_length()))


SHAPES = {
    "cpu": (
        Shape("3m", 2048, {"train step": _doubling(512, 4096), "prefill": _doubling(512, 4096)}, most=4096),
        Shape(
            Size(layers=1, width=64, heads=1, intermediate=176, tied=True),
            8192,
            {"train step": _doubling(512, 32768), "prefill": _doubling(512, 131072)},
            arms=(BASELINE, "coca"),
        ),
    ),
    "cuda": (
        Shape("350m", 32768, {"train step": _doubling(512, 32768), "prefill": _doubling(512, 131072)}),
    ),
}  # fmt: skip


def training_costs(settings: BenchSettings) -> Iterator[Record]:
    """Ratios, seconds, bytes and shares of the limit of a step of AdamW."""
    return _costs("train step", settings)


def prefill_costs(settings: BenchSettings) -> Iterator[Record]:
    """Ratios, seconds, bytes and shares of the limit of reading a prompt into a cache."""
    return _costs("prefill", settings)


def _costs(task: Task, settings: BenchSettings) -> Iterator[Record]:
    limits = machine(settings.device, settings.dtype)
    yield from limits.records()
    for shape in SHAPES[settings.device.type]:
        lengths = [length for length in settings.chosen(shape.lengths[task]) if length <= (shape.most or length)]
        pairs = [(arm, BASELINE) for arm in shape.arms if arm != BASELINE]
        contest = Contest(task=task, settings=settings, pairs=pairs, model=shape.name, machine=limits)
        arms, found = Arms(shape, max(lengths, default=1), settings), []
        for length in lengths:
            rows = max(1, shape.tokens // length)
            makers = {arm: functools.partial(_made, task, arms, arm, (rows, length)) for arm in shape.arms}
            work = model_work(arms.model(BASELINE), rows, length, training=task == "train step")
            for record in contest.at(length, makers, work=work, rows=rows, least=_least(length, settings)):
                found.append(record)
                yield record
        yield from exponents(found)


def _least(length: int, settings: BenchSettings) -> int:
    """Turns at the least: long inputs take seconds to minutes on a processor."""
    return 5 if length < 16384 or settings.on_gpu else 3 if length < 131072 else 2


class Arms:
    """The models of one shape, made when they are first asked for, all from the same weights."""

    def __init__(self, shape: Shape, longest: int, settings: BenchSettings) -> None:
        self.settings = settings
        self._shape, self._longest = shape, longest
        self._models: dict[str, PreTrainedModel] = {}

    def model(self, arm: str) -> PreTrainedModel:
        """The model of `arm`, which reads up to the longest length."""
        if arm not in self._models:
            if arm == BASELINE:
                size, seed = self._shape.size, self.settings.seed
                model = build_plain_model("llama", size, VOCABULARY, self._longest, BASE, seed)
            else:
                model = copy.deepcopy(self.model(BASELINE))
                install_methods(model, ARMS[arm], self._longest)
            self._models[arm] = model.to(self.settings.device, self.settings.dtype)
        return self._models[arm]


def _made(task: Task, arms: Arms, arm: str, batch: tuple[int, int]) -> Call:
    settings = arms.settings
    generator = torch.Generator().manual_seed(settings.seed)
    ids = torch.randint(VOCABULARY, batch, generator=generator).to(settings.device)
    return _training_step(arms.model(arm), ids) if task == "train step" else _prefill(arms.model(arm), ids)


def _training_step(model: PreTrainedModel, ids: torch.Tensor) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step(ids: torch.Tensor = ids) -> None:
        model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(ids[:1, :64])  # makes the optimizer's moments, which are no part of a step's memory
    return step


def _prefill(model: PreTrainedModel, ids: torch.Tensor) -> Callable[[], object]:
    model.eval()

    @torch.no_grad()
    def prefill() -> object:
        return model(ids, use_cache=True, logits_to_keep=1)

    return prefill
