from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longspan.errors import ConfigError
from longspan.train.config import RunConfig, changed_keys

MINIMAL: dict[str, Any] = {"name": "a", "train_length": 256, "data": {"text": "books"}, "tokens": "5m"}


def parse(**changes: Any) -> RunConfig:
    return RunConfig.parse({**MINIMAL, **changes}, "test")


def test_steps_follow_from_tokens() -> None:
    config = parse()
    assert config.total_steps == 5 * 1024 * 1024 // 4096 == 1280
    assert (config.micro_batch_rows, config.accumulation) == (16, 1)


def test_micro_batches_split_the_batch() -> None:
    config = parse(batch_tokens=8192, micro_batch_tokens=2048)
    assert (config.micro_batch_rows, config.accumulation) == (8, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"family": "gpt_neox", "size": "350m"}, "methods": "coca(form='slack')+yarn"},
        {"model": {"from": "somewhere"}, "methods": "yarn", "target_length": "1k"},
        {"optimizer": {"schedule": "constant"}},
        {"data": {"text": "a.jsonl", "field": "body", "mixture": {"text": 0.5, "passkey": 0.5, "most_keys": 3}}},
    ],
)
def test_the_resolved_yaml_reads_back_as_the_same_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = parse(**changes)
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    again = RunConfig.from_yaml(path)
    assert again.to_json() == config.to_json()
    assert again.to_yaml() == config.to_yaml()


def test_defaults_are_filled_in_by_kind_of_run() -> None:
    scratch, tuned = parse(), parse(model={"from": "somewhere"})
    assert (scratch.model.family, scratch.model.size, scratch.model.base) == ("llama", "1m", 10000)
    assert scratch.data.vocab_size == 1024
    assert (tuned.model.family, tuned.model.size, tuned.data.vocab_size) == (None, None, None)
    assert parse(model={"family": "gpt_neox"}).model.rotary_pct == 0.25
    assert parse(data={"text": "a", "tokenizer": "b"}).data.vocab_size is None


def test_a_variable_of_the_environment_stands_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(parse(data={"text": "DATA/train"}).to_yaml().replace("DATA", "${LONGSPAN_TEST}"))
    monkeypatch.setenv("LONGSPAN_TEST", "/data")
    assert RunConfig.from_yaml(path).data.text == "/data/train"
    monkeypatch.delenv("LONGSPAN_TEST")
    with pytest.raises(ConfigError, match="LONGSPAN_TEST, which is not set"):
        RunConfig.from_yaml(path)


def test_methods_are_kept_in_their_canonical_spelling() -> None:
    assert parse(methods="none").methods == "rope"
    assert parse(methods="coca(form=exact) + yarn").methods == "coca+yarn"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"from": "x", "size": "3m"}}, "'size' has no effect together with 'from'"),
        ({"model": {"rotary_pct": 0.5}}, "'rotary_pct' has no effect on llama"),
        ({"model": {"key_value_heads": 3}}, "'key_value_heads' 3 must divide the 4 heads of 1m"),
        ({"model": {"family": "gpt_neox", "key_value_heads": 1}}, "'key_value_heads' has no effect on gpt_neox"),
        ({"model": {"from": "x", "key_value_heads": 1}}, "'key_value_heads' has no effect together with 'from'"),
        ({"model": {"size": "2m"}}, "unknown size '2m': choose one of 1m, 3m"),
        ({"model": {"family": "mamba"}}, "'model.family'"),
        ({"methods": "yarn+pi"}, "both fill the slot 'frequency'"),
        ({"methods": "yarm"}, "'methods': unknown method 'yarm'"),
        ({"steps": 10}, "set one of 'tokens' and 'steps'"),
        ({"tokens": None}, "set one of 'tokens' and 'steps'"),
        ({"tokens": 100}, "less than one step"),
        ({"train_length": "32q"}, "'train_length': '32q' is not a length"),
        ({"batch_tokens": 1000}, "is no multiple of 'train_length' 256; take 1024"),
        ({"micro_batch_tokens": 768}, "divide 'batch_tokens' 4096"),
        ({"target_length": 512}, "'target_length' is for fine-tuning"),
        ({"model": {"from": "x"}, "target_length": 512}, "no effect without a method"),
        ({"model": {"from": "x"}, "methods": "yarn", "target_length": 128}, "is shorter than 'train_length'"),
        ({"model": {"from": "x"}, "data": {"text": "a", "vocab_size": 512}}, "'data.vocab_size' has no effect"),
        ({"data": {"text": "a", "tokenizer": "t", "vocab_size": 512}}, "'data.vocab_size' has no effect"),
        ({"data": {"text": "a", "field": "body"}}, "'field' has no effect on plain text"),
        ({"data": {"text": "a", "mixture": {"text": 0.5}}}, "must add up to 1"),
        ({"data": {"text": "a", "mixture": {"txt": 1}}}, "'data.mixture.txt'; did you mean 'text'?"),
        ({"data": "books"}, "'data'"),
        ({"optimizer": {"learning_rat": 1}}, "did you mean 'learning_rate'?"),
        ({"optimizer": {"schedule": "constant", "final_share": 0.1}}, "'final_share' has no effect"),
        ({"optimizer": {"learning_rate": "nan"}}, "'optimizer.learning_rate'"),
        ({"dtype": "float16"}, "'dtype'"),
        ({"threads": 0}, "'threads'"),
    ],
)
def test_a_setting_that_cannot_be_used_or_has_no_effect_is_an_error_of_one_line(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_settings_that_decide_the_result_count_as_changed(run_config: Callable[..., RunConfig]) -> None:
    old = run_config().to_json()
    new = run_config(seed=1, optimizer={"learning_rate": 0.5}, save_every=9, threads=2).to_json()
    assert changed_keys(old, new) == ["seed", "optimizer.learning_rate"]
    assert changed_keys(old, {**old, "unheard": 1}) == ["unheard"]


@pytest.mark.parametrize("recipe", sorted(Path(__file__).parents[2].glob("recipes/*.yaml")), ids=lambda path: path.name)
def test_every_recipe_can_be_read(recipe: Path) -> None:
    config = RunConfig.from_yaml(recipe)
    assert config.epochs or config.total_steps > 0
