"""Contests: who cannot run is left out with the reason, and the numbers are those of one window."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import flex_attention

from longspan.bench.attention import HEAD_DIM, WAYS, causal_blocks, inputs
from longspan.bench.contest import Contest
from longspan.bench.limits import Machine, Work
from longspan.bench.memory import allocated_peak
from longspan.bench.settings import BenchSettings
from longspan.equation import Window
from longspan.methods.feature.coca import Coca
from longspan.records import Record
from longspan.reference import reference_attention

QUICK = BenchSettings(seconds=0, progress=False)


def sleeping(seconds: float) -> Callable[[], Callable[[], object]]:
    return lambda: lambda: time.sleep(seconds)


def broken() -> Callable[[], object]:
    raise NotImplementedError("no such kernel\n  here")


def value_of(records: list[Record], method: str, metric: str) -> float:
    (value,) = [record.value for record in records if (record.method, record.metric) == (method, metric)]
    assert value is not None
    return value


def test_a_contestant_that_cannot_run_is_left_out_from_there_on_and_the_rest_goes_on() -> None:
    contest = Contest(task="t", settings=QUICK, pairs=[("broken", "slow")])
    first, second = (list(contest.at(length, {"slow": sleeping(0.001), "broken": broken})) for length in (16, 32))
    (reason,) = [record for record in first if record.value is None]
    assert (reason.method, reason.metric, reason.length) == ("broken", "left out", 16)
    assert reason.note == "NotImplementedError: no such kernel here"
    assert {record.method for record in second} == {"slow"}


def test_seconds_bytes_and_shares_are_those_of_one_window() -> None:
    machine = Machine(rates=[1000.0], bandwidths=[1e12])
    contest = Contest(task="t", settings=QUICK, pairs=[("slow", "quick")], machine=machine)
    makers = {"quick": sleeping(0.004), "slow": sleeping(0.012)}
    records = list(contest.at(64, makers, work=Work(operations=4.0, bytes=0), rows=2))
    assert value_of(records, "quick", "seconds") >= 0.002
    assert 0 < value_of(records, "quick", "share of limit") <= 1  # 2 operations, 0.002 s at the rate
    assert value_of(records, "limit", "seconds") == pytest.approx(0.002)
    assert 1 < value_of(records, "slow / quick", "ratio") < 4


def test_the_peak_is_what_was_there_at_once() -> None:
    def call() -> object:
        torch.ones(1 << 18).sum()  # a megabyte, and gone
        kept = torch.ones(1 << 19)
        return kept + 1

    assert allocated_peak(call) == pytest.approx(2 * 4 * (1 << 19), abs=4096)


@pytest.mark.parametrize("name", ["rope", "coca", "released coca"])
def test_the_ways_to_attend_compute_what_they_are_named_for(name: str) -> None:
    q, k, v = (x[:, :2] for x in inputs(24, QUICK))
    methods = {"rope": [], "coca": [Coca()], "released coca": [Coca(form="slack")]}[name]
    window = Window(rotary_dim=HEAD_DIM, original_length=24, target_length=24)
    expected = reference_attention(q, k, v, methods=methods, window=window)
    found = WAYS[name].make(24, q.device)(q, k, v)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("length", [1, 128, 300])
def test_the_block_mask_is_causal(length: int) -> None:
    mask = causal_blocks(length, torch.device("cpu"))
    blocks = torch.ones(-(-length // 128), -(-length // 128)).tril()
    torch.testing.assert_close(mask.to_dense()[0, 0].float(), blocks)
    q, k, v = (x[:, :1] for x in inputs(length, QUICK))
    found = flex_attention(q, k, v, block_mask=mask)  # plainly, without a compiler
    torch.testing.assert_close(found, functional.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_a_kernel_that_needs_cuda_is_left_out_on_a_processor_with_the_reason() -> None:
    contest = Contest(task="t", settings=QUICK, pairs=[])
    cpu = torch.device("cpu")
    attend = WAYS["PoPE-pytorch"].make

    def make() -> Callable[[], object]:
        return attend(64, cpu)  # type: ignore[return-value]

    (record,) = contest.at(64, {"PoPE-pytorch": make})
    assert record.note == "its fused kernel needs CUDA"
