"""Instruction tuning: what a run on conversations learns, counts, keeps and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from longspan.data.conversation_dataset import arrange
from longspan.data.conversation_file import open_conversations
from longspan.errors import ConfigError, DataError
from longspan.records import read_records
from longspan.train import trainer
from longspan.train.config import RunConfig
from longspan.train.run import train

Make = Callable[..., RunConfig]


def talk(number: int) -> dict[str, Any]:
    pairs = [("user", "What was calm?"), ("assistant", "the sea " * (1 + number % 4))]
    pairs = pairs * (1 + number % 2)
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Eleven conversations, a broken line and one with an empty turn."""
    path = tmp_path / "talks.jsonl"
    rows = [json.dumps(talk(number)) for number in range(11)]
    empty = {"messages": [{"role": "user", "content": ""}]}
    path.write_text("\n".join([*rows[:3], '{"messages"', *rows[3:], json.dumps(empty)]))
    return path


@pytest.fixture
def tuning(talks: Path, model_folder: Path) -> Make:
    """tuning(steps=4) is a run on those conversations with the small model of window 64."""

    def make(*, packing: str = "none", on_bad_rows: str = "skip", **changes: Any) -> RunConfig:
        data = {"conversations": str(talks), "packing": packing, "on_bad_rows": on_bad_rows}
        values = {
            "name": "sft",
            "model": {"from": str(model_folder)},
            "train_length": 64,
            "data": data,
            "batch_tokens": 256,
            "optimizer": {"learning_rate": 1e-3},
            "log_every": 1,
            "save_every": 2,
            "device": "cpu",
            "threads": 1,
        }
        return RunConfig.parse({**values, **({} if "epochs" in changes else {"steps": 4}), **changes}, "test")

    return make


@pytest.mark.parametrize("packing", ["none", "packed"])
def test_the_loss_is_the_mean_over_learned_tokens_of_conversations_read_alone(
    tmp_path: Path, tuning: Make, model_folder: Path, packing: str
) -> None:
    """By hand: each conversation of the first step alone, cross entropy of its learned tokens, one mean over all."""
    config = tuning(packing=packing, steps=1, micro_batch_tokens=128)
    train(config, tmp_path / "run", progress=False)
    (found,) = [record for record in read_records(tmp_path / "run") if record.metric == "loss"]
    (folder,) = (tmp_path / "run" / "data").glob("conversations-*")
    file = open_conversations(folder)
    rows = arrange(file, 64, config.data.packing)
    numbers = [number for row in rows.order(0, 0)[:4] for number in rows.bins[row]]
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    total, learned, seen = 0.0, 0, 0
    for number in numbers:
        tokens = file.conversation(number)[: rows.kept[number]]
        seen += len(tokens)
        ids = torch.from_numpy(tokens["id"].astype("int64"))
        targets = torch.from_numpy(tokens["learned"].copy())[1:]
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits[targets], ids[1:][targets], reduction="sum"))
        learned += int(targets.sum())
    assert found.value == pytest.approx(total / learned, rel=1e-4)
    assert found.n == seen  # padding does not count


def test_an_epoch_is_as_many_steps_as_all_conversations_fill(tmp_path: Path, tuning: Make) -> None:
    train(tuning(epochs=2), tmp_path / "run", progress=False)
    losses = [record for record in read_records(tmp_path / "run") if record.metric == "loss"]
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert len(losses) == round(2 * 11 / 4)
    assert data["rows_per_epoch"] == data["conversations"] == 11
    assert losses[-1].depth == 1.0
    # 5 or 6 steps of 4 rows: two epochs of 11 rows, give or take half a step
    assert losses[-1].n == pytest.approx(2 * data["tokens_per_epoch"], abs=2 * 64)


def test_what_was_left_out_is_counted_and_the_first_is_named(
    tmp_path: Path, tuning: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"2 of 13 rows cannot be used, the first is talks.jsonl:4: not JSON"):
        train(tuning(on_bad_rows="stop"), tmp_path / "run", progress=False)
    train(tuning(steps=1), tmp_path / "run")
    assert "2 of 13 rows cannot be used, the first is talks.jsonl:4: not JSON" in capsys.readouterr().err
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert data["bad_rows"] == 2
    assert data["first_bad_row"].startswith("talks.jsonl:4: not JSON")
    assert (data["conversations_cut"], data["conversations_left_out"]) == (0, 0)


def test_the_checkpoint_talks_by_the_template_it_was_trained_with(tmp_path: Path, tuning: Make) -> None:
    checkpoint = train(tuning(), tmp_path / "run", progress=False)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == "<s>User:\na\nAssistant:\n"


@pytest.mark.parametrize(
    "changes", [{}, {"packing": "packed", "methods": "yarn+skip_align(p_skip=1.0)", "target_length": 256}]
)
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, tuning: Make, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    config = tuning(**changes, steps=5)
    step = trainer.RunTrainer.training_step

    def stop(self: trainer.RunTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3:
            raise RuntimeError("killed")
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.RunTrainer, "training_step", stop)
        with pytest.raises(RuntimeError, match="killed"):
            train(config, tmp_path / "a", progress=False)
    for name in ("a", "b"):
        train(config, tmp_path / name, progress=False)
    one, two = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(one[name], two[name]) for name in two)
    records = [[(r.n, r.value) for r in read_records(tmp_path / n) if r.metric == "loss"] for n in ("a", "b")]
    assert records[0] == records[1]


def test_conversations_that_changed_since_the_run_began_are_an_error(tmp_path: Path, tuning: Make, talks: Path) -> None:
    train(tuning(steps=1), tmp_path / "run", progress=False)
    talks.write_text(json.dumps(talk(3)))
    with pytest.raises(DataError, match=r"data\.conversations .* has changed since the run in .* began"):
        train(tuning(steps=1), tmp_path / "run", progress=False)


MINIMAL: dict[str, Any] = {"name": "a", "train_length": 256, "model": {"from": "m"}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {}}, "set one of 'text' and 'conversations'"),
        ({"data": {"text": "a", "conversations": "b"}}, "set one of 'text' and 'conversations'"),
        ({"data": {"conversations": "b", "mixture": {"text": 1}}}, "'mixture' has no effect on conversations"),
        ({"data": {"conversations": "b", "field": "x"}}, "'field' has no effect"),
        ({"data": {"text": "a", "packing": "packed"}, "tokens": "1m"}, "'packing' has no effect on text"),
        ({"data": {"text": "a", "on_bad_rows": "skip"}, "tokens": "1m"}, "'on_bad_rows' has no effect on text"),
        ({"data": {"text": "a", "template": "plain"}, "tokens": "1m"}, "'template' has no effect on text"),
        ({"data": {"text": "a"}, "epochs": 1}, "'epochs' is for conversations"),
        ({"data": {"conversations": "b"}, "tokens": "1m"}, "'tokens' is for text"),
        ({"data": {"conversations": "b"}}, "set one of 'epochs' and 'steps'"),
        ({"data": {"conversations": "b"}, "epochs": 1, "steps": 1}, "set one of 'epochs' and 'steps'"),
        ({"data": {"conversations": "b"}, "epochs": 1, "model": {"size": "1m"}}, "no tokenizer is learned"),
        ({"data": {"conversations": "b", "packing": "half"}, "epochs": 1}, "'data.packing'"),
        (
            {"data": {"conversations": "b"}, "epochs": 1, "parallel": {"fsdp": True, "context": 2}},
            "processes cannot share windows of them",
        ),
    ],
)
def test_a_setting_that_has_no_effect_on_what_is_read_is_an_error(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({**MINIMAL, **changes}, "test")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_resolved_yaml_of_conversations_reads_back_as_the_same_run(tmp_path: Path) -> None:
    config = RunConfig.parse({**MINIMAL, "data": {"conversations": "b"}, "epochs": 1.5}, "test")
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    assert RunConfig.from_yaml(tmp_path / "run.yaml").to_json() == config.to_json()
    assert (config.data.packing, config.data.on_bad_rows) == ("none", "stop")
    assert config.for_epochs(100).total_steps == round(1.5 * 100 / 16)
