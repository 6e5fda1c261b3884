from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from longspan.errors import DataError
from longspan.export import export
from longspan.records import Record, append_records

Extended = Callable[..., PreTrainedModel]


def records(method: str, value: float) -> list[Record]:
    shared = {"run": "run", "model": "source", "n": 1000, "seed": 0, "low": value - 1, "high": value + 1}
    return [
        Record(method=method, task="perplexity", metric="perplexity", value=value, length=64, **shared),
        Record(method=method, task="perplexity", metric="perplexity", value=value + 1, length=256, **shared),
        Record(method=method, task="passkey", metric="accuracy", value=0.5, length=256, **shared),
    ]


def test_the_card_says_what_was_done_how_to_load_it_and_what_the_methods_are(
    extended: Extended, tmp_path: Path
) -> None:
    extended("yarn(beta_fast=9.2)")
    export(tmp_path / "source", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "A window of 64 tokens made 256 by `yarn(beta_fast=9.2)`, factor 4." in card
    assert "LlamaForCausalLM computes it, by rope type `yarn`" in card
    assert 'AutoModelForCausalLM.from_pretrained("out")' in card
    assert "YaRN: leave fast pairs alone" in card
    assert "Nothing yet" in card
    assert "vLLM" not in card


def test_a_card_with_code_names_the_reason_and_the_flag(extended: Extended, tmp_path: Path) -> None:
    extended("coca+ntk")
    export(tmp_path / "source", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Coca changes what is rotated, which no rope type does." in card
    assert 'from_pretrained("out", trust_remote_code=True)' in card
    assert "NTK-aware scaling" in card


def test_records_that_lie_with_the_model_come_into_its_card(extended: Extended, tmp_path: Path) -> None:
    extended("yarn")
    append_records(tmp_path / "source" / "records.jsonl", [*records("yarn", 20.0), *records("pi", 90.0)])
    export(tmp_path / "source", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "20.00 (19.00–21.00) | 21.00 (19.00–21.00)" in card
    assert "### Passkey" in card
    assert "90.0" not in card


def test_records_can_be_named_and_must_be_of_these_methods(extended: Extended, tmp_path: Path) -> None:
    extended("yarn")
    append_records(tmp_path / "run" / "records.jsonl", records("yarn", 30.0))
    append_records(tmp_path / "other.jsonl", records("pi", 90.0))
    export(tmp_path / "source", tmp_path / "out", records=tmp_path / "run")
    assert "30.00" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(DataError, match=r"other.jsonl holds no record of yarn, only of pi"):
        export(tmp_path / "source", tmp_path / "second", records=tmp_path / "other.jsonl")
    assert not (tmp_path / "second").exists()
