"""What methods without training cost when a long input is read: prefill by length, time (paired) and peak memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import torch

from benchmarks.process_memory import peak_bytes
from longspan import surgery
from longspan.bench.paired import ratio, take_turns
from longspan.bench.settings import BenchSettings
from longspan.records import Record
from longspan.train.sizes import build_plain_model

TRAIN_LENGTH = 256
LENGTHS = (512, 2048, 8192)
ARMS = ("rope", "yarn", "self_extend", "dual_chunk", "re_rope", "re_rope(leak=32)", "lm_infinite", "streaming")
"""rope is transformers' own Llama, unpatched."""


def training_free_costs(settings: BenchSettings) -> Iterator[Record]:
    """Ratios of each method's prefill to that of the unpatched model."""
    for length in LENGTHS:
        calls = {methods: prefill(methods, length) for methods in ARMS}
        times = take_turns(calls, seconds=settings.seconds, label=f"training-free {length}")
        memory = {methods: _peak_of(methods, length) for methods in ARMS}
        yield _record("rope", "bytes", memory["rope"], length)
        for methods in ARMS[1:]:
            found = ratio(times, methods, "rope")
            value = memory[methods] / memory["rope"]
            yield found.record("training-free, time of a prefill", length)
            yield _record(methods, "bytes", memory[methods], length)
            yield _record(f"{methods} / rope", "ratio", value, length)


def _record(method: str, metric: str, value: float, length: int) -> Record:
    task = "training-free, peak memory of a prefill"
    return Record(
        run="benchmarks", method=method, model=method, task=task, metric=metric, value=value, n=1, length=length
    )


def prefill(methods: str, length: int) -> Callable[[], object]:
    """A model of 3M parameters reads `length` tokens, for the next one's logits."""
    model = build_plain_model("llama", "3m", 1024, TRAIN_LENGTH, 10000.0, 0).eval()
    if methods != "rope":
        surgery.extend(model, methods, target_length=length)
    ids = torch.randint(0, 1024, (1, length), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def read() -> object:
        return model(ids, use_cache=True, logits_to_keep=1)

    return read


def _peak_of(methods: str, length: int) -> int:
    """Bytes that a prefill adds to the peak of a fresh process, the model not counted."""
    command = [sys.executable, "-m", "benchmarks.training_free", methods, str(length)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    prefill(sys.argv[1], 2 * TRAIN_LENGTH)()  # loads what a first call loads
    print(peak_bytes(prefill(sys.argv[1], int(sys.argv[2]))))
