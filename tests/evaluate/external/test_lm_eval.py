"""The bridge to lm-evaluation-harness: a task of our own in its format, on the model as it is in memory."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import longspan
from longspan.errors import ConfigError
from longspan.evaluate.task import Bench
from longspan.evaluate.tasks import find_task

pytest.importorskip("lm_eval")

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files: {rows}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 1.0
"""
CHOICES = [("ab", "aa", 0), ("ba", "bcb", 1), ("cab", "c", 1), ("abc", "ca", 0)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    examples = [{"context": "abcab", "choices": [one, two], "answer": answer} for one, two, answer in CHOICES]
    rows.write_text("".join(json.dumps(row) + "\n" for row in examples))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tiny.yaml").write_text(TASK.format(rows=rows))
    return tmp_path / "tasks"


def likelihood(bench: Bench, text: str) -> float:
    """Log-likelihood of an ending after its context, by plain transformers."""
    ids = torch.tensor([[0, *bench.tokenizer(f"abcab {text}", add_special_tokens=False).input_ids]])
    with torch.no_grad():
        scores = bench.model(ids).logits.log_softmax(-1)
    start = 1 + len("abcab")
    return float(scores[0, start - 1 : -1].gather(1, ids[0, start:, None]).sum())


def test_the_patched_model_in_memory_is_measured_at_each_length_and_numbers_become_records(
    folder: Path, letters: PreTrainedTokenizerFast, tiny_model: Callable
) -> None:
    model = tiny_model("llama")
    model.resize_token_embeddings(len(letters))
    longspan.extend(model, "yarn", target_length=256)
    bench = Bench(model=model, tokenizer=letters, lengths=[64, 256], options={"data": str(folder)})
    task = find_task("lm_eval:tiny_choice")
    settings = task.settings(bench, "lm_eval:tiny_choice")
    assert list(settings["tasks of lm-eval"]) == ["tiny.yaml"]
    records = task.measure(bench, "lm_eval:tiny_choice")
    pairs = [(likelihood(bench, one), likelihood(bench, two)) for one, two, _ in CHOICES]
    right = sum((two > one) == bool(answer) for (one, two), (_, _, answer) in zip(pairs, CHOICES, strict=True)) / 4
    found = {(record.metric, record.length): record for record in records}
    assert set(found) == {(metric, length) for metric in ("accuracy", "acc_norm") for length in (64, 256)}
    record = found["accuracy", 256]
    assert (record.value, record.n, record.method) == (right, 4, "yarn")
    error = math.sqrt(right * (1 - right) / 3)  # the sample's standard deviation over the root of 4
    assert record.high is not None
    assert record.high - right == pytest.approx(1.959964 * error, abs=1e-6)
    again = dataclasses.replace(bench, columns={**bench.columns, "done": records})
    assert task.measure(again, "lm_eval:tiny_choice") == records


@pytest.mark.slow  # reads the thousands of files of lm-eval's own tasks
def test_an_unknown_task_is_one_line(folder: Path, letters: PreTrainedTokenizerFast, tiny_model: Callable) -> None:
    bench = Bench(model=tiny_model("llama"), tokenizer=letters, lengths=[64], options={"data": str(folder)})
    with pytest.raises(ConfigError, match="lm-eval has no task 'nothing_such'"):
        find_task("lm_eval:nothing_such").settings(bench, "lm_eval:nothing_such")
