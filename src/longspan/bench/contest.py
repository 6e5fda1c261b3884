"""Contestants at one task, length by length: time, memory, ratios, and shares of what the machine allows."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from longspan.bench.limits import Machine, Work
from longspan.bench.memory import allocated_peak
from longspan.bench.paired import left_out, ratio, seconds_records, take_turns
from longspan.bench.settings import BenchSettings
from longspan.errors import LongspanError
from longspan.records import Record

Call = Callable[[], object]
Maker = Callable[[], Call]
"""Builds what is timed: models, inputs, compiled kernels."""

LIMIT = "limit"
"""The physical limit among the contestants."""


@dataclass(kw_only=True)
class Contest:
    """Contestants that do the same work. One that cannot be built or run is left out from there on, with the reason."""

    task: str
    settings: BenchSettings
    pairs: Sequence[tuple[str, str]]
    """Whose ratio to whom is told."""
    model: str | None = None
    """What computes; None: the contestant itself."""
    machine: Machine | None = None
    """What the machine can do, where shares of the limit are told."""
    _out: set[str] = field(default_factory=set)

    def at(
        self, length: int, makers: Mapping[str, Maker], *, work: Work | None = None, rows: int = 1, least: int = 5
    ) -> Iterator[Record]:
        """Records of seconds, bytes, both ratios and shares of the limit at `length`.

        Args:
            makers: by contestant; each is called once, right before it is measured.
            work: what must be done, for the shares.
            rows: windows that a call works on; seconds and bytes are those of one, a call's divided by them.
            least: turns at the least, one of warm-up not counted.
        """
        calls: dict[str, Call] = {}
        peaks: dict[str, float] = {}
        for name, make in makers.items():
            if name in self._out:
                continue
            try:
                calls[name] = self.settings.finished(make())
                peaks[name] = allocated_peak(calls[name], self.settings.device)
            except Exception as error:  # compilers and kernels of others raise errors of any kind
                calls.pop(name, None)
                self._out.add(name)
                yield left_out(self.task, name, _reason(error), length, self.model)
        if calls:
            label = f"{self.task} {length}"
            seconds, progress = self.settings.seconds, self.settings.progress
            times = take_turns(
                calls, seconds=seconds, least=least, warm_up=False, label=label, progress=progress
            )  # the memory's call has been the warm-up
            times = {name: [second / rows for second in row] for name, row in times.items()}
            peaks = {name: peak / rows for name, peak in peaks.items()}
            yield from self._told(times, peaks, length, None if work is None else work.times(1 / rows))
        calls.clear()
        gc.collect()
        if self.settings.on_gpu:
            torch.cuda.empty_cache()

    def _told(
        self, times: Mapping[str, Sequence[float]], peaks: Mapping[str, float], length: int, work: Work | None
    ) -> Iterator[Record]:
        found = seconds_records(times, self.task, length, self.model)
        yield from found
        for name, peak in peaks.items():
            yield self._record(name, "bytes", peak, length)
        for contestant, baseline in self.pairs:
            if contestant in times and baseline in times:
                yield ratio(times, contestant, baseline).record(self.task, length, self.model)
                both = f"{contestant} / {baseline}"
                yield self._record(both, "memory ratio", peaks[contestant] / max(1.0, peaks[baseline]), length)
        if self.machine is not None and work is not None:
            limit = self.machine.seconds(work)
            yield self._record(LIMIT, "seconds", limit, length)
            for record in found:
                assert record.value is not None
                assert record.low is not None
                assert record.high is not None
                value, low, high = (limit / seconds for seconds in (record.value, record.high, record.low))
                yield replace(record, metric="share of limit", value=value, low=low, high=high)

    def _record(self, method: str, metric: str, value: float, length: int) -> Record:
        model = self.model or method
        return Record(
            run="benchmarks", method=method, model=model, task=self.task, metric=metric, value=value, length=length, n=1
        )  # fmt: skip


def _reason(error: Exception) -> str:
    """The error in one line, with its kind where that says more."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, LongspanError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
