"""What servers accept, by the rules of their sources."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

import longspan
from longspan.planner.servers import SERVERS, Acceptance, accepts

Make = Callable[[str], PreTrainedModel]


def answers(model: PreTrainedModel, method: str) -> dict[str, Acceptance]:
    found = longspan.extend(model, method, target_length=256).plan
    return {server: accepts(server, model, found) for server in SERVERS}


@pytest.mark.parametrize(
    ("method", "served"),
    [
        ("yarn", {"transformers", "vllm", "sglang", "llama.cpp"}),
        ("pi", {"transformers", "vllm", "sglang", "llama.cpp"}),
        ("ntk", {"transformers", "vllm", "sglang", "llama.cpp"}),
        ("dynamic_ntk", {"transformers"}),
        ("coca+pi", {"transformers", "vllm"}),
        ("pope", {"transformers"}),
        ("alibi", {"transformers"}),
    ],
)
def test_each_server_serves_what_it_can_compute(tiny_model: Make, method: str, served: set[str]) -> None:
    found = answers(tiny_model("llama"), method)
    assert {server for server, answer in found.items() if answer.accepted} == served
    assert all(answer.max_length == 256 for answer in found.values() if answer.accepted)


def test_every_answer_says_what_to_set_or_why_not(tiny_model: Make) -> None:
    yarn = answers(tiny_model("llama"), "yarn")
    assert yarn["transformers"].setting == "by itself: rope type yarn, max_position_embeddings 256"
    assert yarn["vllm"].setting.startswith("--max-model-len 256: rope type yarn")
    assert yarn["sglang"].setting == "--context-length 256: rope type yarn"
    dynamic = answers(tiny_model("llama"), "dynamic_ntk")
    assert "follows the length" in dynamic["vllm"].setting
    assert "llama" in answers(tiny_model("gemma2"), "yarn")["llama.cpp"].setting


def test_an_outline_is_enough(tiny_model: Make) -> None:
    whole, outline = tiny_model("qwen3"), tiny_model("qwen3").to("meta")
    assert answers(outline, "yarn") == answers(whole, "yarn")


def test_a_plain_model_is_served_as_it_is(tiny_model: Make) -> None:
    model = tiny_model("llama")
    found = [accepts(server, model, longspan.plan(model, "none")) for server in SERVERS]
    assert all(answer.accepted and answer.max_length == 64 for answer in found)
