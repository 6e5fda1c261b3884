"""Exponents and limits against numbers by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from longspan.bench.fit import exponents, power_law
from longspan.bench.limits import Machine, Work, attention_work, machine, model_work
from longspan.records import Record


def test_the_exponent_of_a_square_is_two_and_of_a_line_one() -> None:
    assert power_law({n: 3.0 * n**2 for n in (512, 1024, 4096)}).exponent == pytest.approx(2)  # type: ignore[union-attr]
    law = power_law({64: 2.0, 128: 4.0, 256: 16.0})
    assert law is not None
    assert law.exponent == pytest.approx(1.5)
    assert (law.low, law.high) == pytest.approx((1, 2))
    assert law.n == 3


def test_the_exponent_rests_on_the_longest_eighth_alone() -> None:
    constant_then_square = {64: 1.0, 128: 1.0, 512: 1.0, 2048: 16.0, 4096: 64.0}
    law = power_law(constant_then_square)
    assert law is not None
    assert law.exponent == pytest.approx(2)
    assert law.n == 3


@pytest.mark.parametrize("values", [{}, {512: 1.0}, {512: 0.0, 1024: 1.0}, {512: 1.0, 8192: 2.0}])
def test_one_length_has_no_exponent(values: dict[int, float]) -> None:
    assert power_law(values) is None


def test_exponents_are_told_for_each_contestant_and_cost() -> None:
    def cost(method: str, metric: str, length: int, value: float | None) -> Record:
        return Record(run="r", method=method, model="m", task="t", metric=metric, value=value, length=length)

    records = [cost("a", "seconds", n, n**2) for n in (64, 128)] + [cost("b", "bytes", n, n) for n in (64, 128)]
    found = exponents([*records, cost("a", "ratio", 64, 1.0), cost("c", "seconds", 64, 1.0)])
    assert [(r.method, r.metric, r.value, r.length) for r in found] == [
        ("a", "exponent", pytest.approx(2), 128),
        ("b", "memory exponent", pytest.approx(1), 128),
    ]


def test_the_limit_is_the_slower_of_computing_and_moving() -> None:
    # 1 TFLOP/s and 100 GB/s at best
    here = Machine(rates=[0.5e12, 1e12], bandwidths=[100e9, 90e9])
    assert here.seconds(Work(operations=2e12, bytes=1e9)) == pytest.approx(2)
    assert here.seconds(Work(operations=1e9, bytes=1e11)) == pytest.approx(1)
    assert {record.metric: record.value for record in here.records()} == {
        "operations per second": 1e12,
        "bytes per second": 100e9,
    }


def test_the_work_of_attention_is_two_products_over_half_the_square() -> None:
    q, k = torch.empty(2, 4, 3, 8), torch.empty(2, 2, 3, 8)
    # 2 sequences x 4 heads x 6 seen pairs x 8 elements x 2 products x 2 operations; q, output, k and v in 4 bytes
    assert attention_work(q, k) == Work(1536, (192 + 192 + 96 + 96) * 4)
    assert attention_work(q, k, backward=True) == Work(3 * 1536, 3 * 2304)


def test_the_work_of_a_model_is_counted_weight_by_weight() -> None:
    config = LlamaConfig(
        vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    # a layer: q 64, k and v 32 each, o 64, three of 128 in the MLP; the head has 80
    body, head = 2 * (64 + 32 + 32 + 64 + 3 * 128), 80
    tokens, seen = 2 * 4, 2 * 10  # two rows of four tokens, ten pairs each
    attention = 2 * seen * 2 * 4 * 2 * 2  # layers x pairs x heads x elements x products x operations
    norms = 5 * 8
    weights = 4 * (body + head + norms)
    assert model_work(model, 2, 4, training=False) == Work(
        2 * body * tokens + 2 * head * 2 + attention, weights + 2 * (2 * tokens * 4 * 4)
    )
    assert model_work(model, 2, 4, training=True) == Work(3 * 2 * (body + head) * tokens + 3 * attention, 10 * weights)


def test_the_machines_rates_are_measured_and_positive() -> None:
    here = machine(torch.device("cpu"), torch.float32, matrix=32, buffer=1 << 12)
    assert min(here.rates) > 0
    assert min(here.bandwidths) > 0
