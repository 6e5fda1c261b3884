from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import longspan
from longspan import models, surgery
from longspan.errors import CheckpointError, ConfigError, DataError, MethodError, TrainingError
from longspan.records import read_records
from longspan.train import trainer
from longspan.train.config import RunConfig
from longspan.train.prepare import prepare
from longspan.train.run import train

Make = Callable[..., RunConfig]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(out: Path) -> list[tuple[int | None, float | None]]:
    return [(record.n, record.value) for record in read_records(out) if record.metric == "loss"]


def state_names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "state").iterdir())


def test_a_run_leaves_the_files_of_its_stages_and_nothing_pickled(tmp_path: Path, run_config: Make) -> None:
    config = run_config(methods="coca")
    checkpoint = train(config, tmp_path / "run", progress=False)
    assert checkpoint == tmp_path / "run" / "checkpoint"
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {".lock", "checkpoint", "run.yaml", "plan.json", "data.json", "records.jsonl"}
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert suffixes <= {".json", ".jsonl", ".yaml", ".safetensors", ".jinja"}
    assert RunConfig.from_yaml(tmp_path / "run" / "run.yaml").to_json() == config.to_json()
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["methods"][0]["name"] == "coca"
    assert ["model.layers.0.self_attn.k_proj", "Coca", ""] in plan["changes"]
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert data["tokens"] > 5000
    assert len(data["tokens_sha256"]) == 64


def test_the_checkpoint_loads_with_its_methods_and_its_tokenizer(tmp_path: Path, run_config: Make) -> None:
    checkpoint = train(run_config(methods="coca"), tmp_path / "run", progress=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    assert surgery.current_methods(model) == (longspan.Coca(),)
    assert model.config.use_cache
    assert (model.config.bos_token_id, model.config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.decode(tokenizer("abc 12", add_special_tokens=False)["input_ids"]) == "abc 12"


def test_records_tell_loss_and_cost_by_tokens_seen(tmp_path: Path, run_config: Make) -> None:
    train(run_config(steps=5), tmp_path, progress=False)
    records = read_records(tmp_path)
    assert [(record.metric, record.n) for record in records] == [
        ("loss", 128),
        ("loss", 256),
        ("loss", 320),
        ("seconds", 320),
        ("seconds per step", 320),
        ("bytes", 320),
    ]
    assert {(record.run, record.task, record.method, record.model) for record in records} == {
        ("tiny", "train", "rope", "llama-tiny")
    }
    assert [record.depth for record in records] == [0.4, 0.8, 1.0, 1.0, 1.0, 1.0]
    assert records[0].value is not None
    assert 4 < records[0].value < 8  # ln 300 = 5.7 at the start
    cost = {record.metric: record.value for record in records}
    assert cost["seconds per step"] == pytest.approx(cost["seconds"] / 5)


def test_a_run_that_is_done_is_left_as_it_is(
    tmp_path: Path, run_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = train(run_config(), tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in checkpoint.iterdir()}
    assert train(run_config(threads=1, save_every=5), tmp_path) == checkpoint
    assert {path: path.stat().st_mtime_ns for path in checkpoint.iterdir()} == before
    assert "already done" in capsys.readouterr().err


def test_a_run_killed_after_its_checkpoint_leaves_no_states_for_good(tmp_path: Path, run_config: Make) -> None:
    train(run_config(), tmp_path, progress=False)
    (tmp_path / "state" / "step-1").mkdir(parents=True)
    train(run_config(), tmp_path, progress=False)
    assert not (tmp_path / "state").exists()


def test_a_run_of_a_version_without_a_setting_is_still_the_same_run(tmp_path: Path, run_config: Make) -> None:
    checkpoint = train(run_config(), tmp_path, progress=False)
    path = tmp_path / "run.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("compile:")))
    assert train(run_config(), tmp_path, progress=False) == checkpoint
    with pytest.raises(ConfigError, match="compile"):
        train(run_config(compile=True), tmp_path, progress=False)


def test_other_settings_in_the_same_folder_are_an_error_that_names_them(tmp_path: Path, run_config: Make) -> None:
    train(run_config(), tmp_path, progress=False)
    with pytest.raises(ConfigError, match=r"other settings \(seed, optimizer.learning_rate\)"):
        train(run_config(seed=1, optimizer={"learning_rate": 0.1}), tmp_path, progress=False)
    (tmp_path / "run.yaml").write_text("[", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.yaml is damaged"):
        train(run_config(), tmp_path, progress=False)


def test_a_run_that_was_refused_can_be_corrected_in_the_same_folder(tmp_path: Path, run_config: Make) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="holds no text"):
        train(run_config(data={"text": str(tmp_path / "empty.txt"), "vocab_size": 300}), tmp_path, progress=False)
    config = run_config(steps=1, methods="coca")
    train(config, tmp_path, progress=False)
    assert RunConfig.from_yaml(tmp_path / "run.yaml").to_json() == config.to_json()


def test_a_run_that_is_done_is_not_taken_for_one_on_other_inputs(
    tmp_path: Path, run_config: Make, data_folder: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text((data_folder / "text.txt").read_text(), encoding="utf-8")
    config = run_config(steps=1, data={"text": str(text), "vocab_size": 300})
    base = train(config, tmp_path / "base", progress=False)
    tuned = run_config(steps=1, model={"from": str(base)}, data={"text": run_config().data.text})
    train(tuned, tmp_path / "tuned", progress=False)

    text.write_text("other " + text.read_text(), encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.text \(.*text\.txt\) has changed since the run in .*base began"):
        train(config, tmp_path / "base", progress=False)
    model = load_file(base / "model.safetensors")
    save_file({name: weight + 1 for name, weight in model.items()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"model\.from \(.*checkpoint\) has changed since the run in .*tuned began"):
        train(tuned, tmp_path / "tuned", progress=False)
    (base / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        train(tuned, tmp_path / "tuned", progress=False)


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path, run_config: Make) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigError, match="another process is at work in"):
        train(run_config(), tmp_path, progress=False)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(
    tmp_path: Path, run_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_step = trainer.RunTrainer.training_step

    def poisoned(self: trainer.RunTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 4:
            with torch.no_grad():
                self.model.get_input_embeddings().weight[:] = torch.nan
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.RunTrainer, "training_step", poisoned)
        with pytest.raises(
            TrainingError, match=r"the loss became nan at step 5 of 6; .* lower optimizer.learning_rate"
        ):
            train(run_config(), tmp_path / "a", progress=False)
    assert state_names(tmp_path / "a") == ["step-000000002", "step-000000004"]
    assert not (tmp_path / "a" / "checkpoint").exists()
    train(run_config(), tmp_path / "a", progress=False)
    train(run_config(), tmp_path / "b", progress=False)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.parametrize("step", [1, 4])
def test_a_loss_that_is_no_number_before_the_first_save_leaves_the_state_before_it(
    tmp_path: Path, run_config: Make, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """At the first step there is nothing to keep, and the error does not say that there is."""
    config = run_config(save_every=100, log_every=100, micro_batch_tokens=32)
    compute_loss = trainer.RunTrainer.compute_loss
    passes: list[int] = []

    def poisoned(self: trainer.RunTrainer, *args: Any, **kwargs: Any) -> Any:
        passes.append(self.state.global_step + 1)
        loss = compute_loss(self, *args, **kwargs)
        # the second forward pass of the step: the first has already added to loss and gradient
        return loss * torch.nan if passes.count(step) == 2 else loss

    with monkeypatch.context() as patch:
        patch.setattr(trainer.RunTrainer, "compute_loss", poisoned)
        with pytest.raises(TrainingError, match=f"became nan at step {step} of 6") as caught:
            train(config, tmp_path / "a", progress=False)
    if step == 1:
        assert "no state was saved before" in str(caught.value)
        assert state_names(tmp_path / "a") == []
    else:
        assert f"{tmp_path / 'a' / 'state' / 'step-000000003'} keeps the state after step 3" in str(caught.value)
    train(config, tmp_path / "a", progress=False)
    train(config, tmp_path / "b", progress=False)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_a_learning_rate_far_too_high_never_saves_weights_that_are_no_numbers(tmp_path: Path, run_config: Make) -> None:
    config = run_config(steps=20, save_every=1, optimizer={"learning_rate": 1e38, "clip": 1e9, "warmup": 0})
    with pytest.raises(TrainingError, match="at step"):
        train(config, tmp_path, progress=False)
    for state in (tmp_path / "state").iterdir():
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(state / "model.safetensors").values())


def test_text_that_cannot_be_used_is_an_error(tmp_path: Path, run_config: Make) -> None:
    def data(name: str, content: str | None) -> dict[str, Any]:
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
        return {"text": str(tmp_path / name), "vocab_size": 300}

    for number, (values, says) in enumerate(
        [
            (data("none.txt", None), "does not exist"),
            (data("empty.txt", ""), "holds no text"),
            (data("short.txt", "only a few"), "fewer than one window of 16"),
        ]
    ):
        with pytest.raises(DataError, match=says):
            train(run_config(data=values), tmp_path / str(number), progress=False)


def test_text_that_changed_since_the_run_began_is_an_error(
    tmp_path: Path, run_config: Make, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text((data_folder / "text.txt").read_text(), encoding="utf-8")
    config = run_config(data={"text": str(text), "vocab_size": 300})
    with monkeypatch.context() as patch:
        patch.setattr(trainer.RunTrainer, "_get_grad_norm", _stop_at(3))
        with pytest.raises(RuntimeError, match="stop"):
            train(config, tmp_path / "run", progress=False)
    text.write_text("other " + text.read_text(), encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.text .* has changed since the run in .* began"):
        train(config, tmp_path / "run", progress=False)


def _stop_at(step: int) -> Any:
    def stop(self: trainer.RunTrainer, *args: Any, **kwargs: Any) -> float:
        if self.state.global_step == step:
            raise RuntimeError("stop")
        return 1.0

    return stop


def test_fine_tuning_extends_the_window_and_takes_the_models_own_tokenizer(tmp_path: Path, run_config: Make) -> None:
    base = train(run_config(), tmp_path / "base", progress=False)
    text = {"text": run_config().data.text}
    config = run_config(
        model={"from": str(base)}, data=text, methods="yarn", target_length=64, train_length=32, steps=2
    )
    checkpoint = train(config, tmp_path / "tuned", progress=False)
    model = models.load(checkpoint)
    assert (surgery.original_length(model), surgery.target_length(model)) == (16, 64)
    assert surgery.current_methods(model) == (longspan.Yarn(),)
    assert {record.method for record in read_records(tmp_path / "tuned")} == {"yarn"}
    assert AutoTokenizer.from_pretrained(checkpoint).get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()
    start, end = weights(tmp_path / "base"), weights(tmp_path / "tuned")
    assert not same(start, end)
    # two steps move a weight by two learning rates at most
    assert max((start[name] - end[name]).abs().max().item() for name in start) < 3 * config.optimizer.learning_rate


def test_fine_tuning_mistakes_are_errors(tmp_path: Path, run_config: Make) -> None:
    base = train(run_config(), tmp_path / "base", progress=False)
    text = {"text": run_config().data.text}
    with pytest.raises(ConfigError, match="train_length 32 is longer than the model's window of 16"):
        train(run_config(model={"from": str(base)}, data=text, train_length=32), tmp_path / "a", progress=False)
    with pytest.raises(CheckpointError):
        train(run_config(model={"from": str(tmp_path / "none")}, data=text), tmp_path / "b", progress=False)
    tuned = train(
        run_config(model={"from": str(base)}, data=text, methods="yarn", target_length=64, steps=1),
        tmp_path / "tuned",
        progress=False,
    )
    with pytest.raises(MethodError):
        train(
            run_config(model={"from": str(tuned)}, data=text, methods="pi", target_length=128),
            tmp_path / "c",
            progress=False,
        )


def test_gpt_neox_and_mixed_precision_learn(tmp_path: Path, run_config: Make) -> None:
    config = run_config(
        model={"family": "gpt_neox", "size": "tiny", "rotary_pct": 0.5},
        methods="coca",
        dtype="bfloat16",
        steps=30,
        batch_tokens=256,
        optimizer={"learning_rate": 0.01},
    )
    train(config, tmp_path, progress=False)
    found = [value for _, value in losses(tmp_path) if value is not None]
    assert found[-1] < found[0] - 0.5
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float32}


def test_query_heads_share_as_many_key_heads_as_was_said(tmp_path: Path, run_config: Make) -> None:
    settings = {"family": "llama", "size": "tiny", "key_value_heads": 1}
    train(run_config(model=settings, methods="coca", steps=1), tmp_path, progress=False)
    model = longspan.load(tmp_path / "checkpoint")
    assert model.config.num_key_value_heads == 1
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.out_features == 2 * attention.k_proj.out_features


def test_runs_that_start_together_share_one_cache(tmp_path: Path, run_config: Make) -> None:
    data = {**run_config().data.model_dump(), "cache": str(tmp_path / "cache")}
    del data["mixture"]
    config = run_config(data=data)
    hashes: list[str] = []

    def work() -> None:
        hashes.append(prepare(config, tmp_path / "cache", progress=False).summary["tokens_sha256"])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hashes) == 3
    assert len(set(hashes)) == 1
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 2


def test_the_progress_bar_tells_tokens_speed_and_loss(
    tmp_path: Path, run_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    train(run_config(), tmp_path)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "tiny: 100%" in printed.err
    assert "tok/s, loss " in printed.err
