"""What follows from a target length, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longspan.errors import ConfigError, LengthError, MethodError
from longspan.planner.dial import Dial, derive
from longspan.train.config import RunConfig

TEXT: dict[str, Any] = {"name": "a", "model": {"from": "m"}, "data": {"text": "books"}}


def dial(given: dict[str, Any] = TEXT, *, target: int = 16384, original: int = 2048, size: float = 7e9) -> Dial:
    return derive(given, target_length=target, original_length=original, parameters=int(size))


def values(found: Dial) -> dict[str, Any]:
    return {choice.key: choice.value for choice in found.choices}


def test_a_far_target_is_the_recipe_of_pose() -> None:
    """arXiv:2309.10400: LLaMA-7B, 2k to 16k, 1000 steps, batch 64, rate 2e-5, 10 steps of warm-up, linear."""
    found = dial()
    assert values(found) == {
        "target_length": 16384,
        "methods": "yarn+pose",
        "train_length": 2048,
        "batch_tokens": 64 * 2048,
        "micro_batch_tokens": 8 * 2048,
        "steps": 1000,
        "optimizer.learning_rate": 2e-5,
        "optimizer.weight_decay": 0.0,
        "optimizer.warmup": 0.01,
        "optimizer.schedule": "linear",
    }
    assert found.test_lengths == (2048, 4096, 8192, 14336, 16384)
    config = RunConfig.parse(found.fill(TEXT), "test")
    assert (config.total_steps, config.rows_per_step, config.micro_batch_rows) == (1000, 64, 8)


def test_a_near_target_is_trained_at_its_full_length() -> None:
    """arXiv:2309.00071: 400 steps, batch 64, 20 steps of warm-up; one window of 6k, and two of them, fit in 16k."""
    found = dial(target=6144)
    assert values(found) | {"methods": "yarn", "train_length": 6144, "steps": 400} == values(found)
    assert values(found)["micro_batch_tokens"] == 2 * 6144
    assert values(found)["optimizer.warmup"] * 400 == 20
    assert found.test_lengths == (2048, 4096, 6144)
    assert values(dial(target=8192))["methods"] == "yarn+pose"  # from factor 4 on


def test_conversations_skip_between_turns_and_are_read_twice() -> None:
    given = {**TEXT, "data": {"conversations": "talks"}}
    found = dial(given)
    expected = {"methods": "yarn+skip_align", "epochs": 2, "data.packing": "packed"}
    assert values(found) | expected == values(found)
    assert "steps" not in values(found)
    config = RunConfig.parse(found.fill(given), "test")
    assert (config.epochs, config.data.packing, config.data.conversations) == (2, "packed", "talks")


@pytest.mark.parametrize(("size", "rate"), [(7e9, 2e-5), (1e9, 3.8e-5), (3.5e8, 5.4e-5), (1e6, 3.8e-4), (1e5, 5e-4)])
def test_smaller_models_learn_faster_by_the_cube_root(size: float, rate: float) -> None:
    """2e-5 (7e9 / 1e9)^(1/3) = 2e-5 x 1.913; at a million parameters 19.13; never above 5e-4."""
    assert values(dial(size=size))["optimizer.learning_rate"] == rate


def test_what_is_given_wins_and_the_rest_is_fitted_to_it() -> None:
    given = {
        **TEXT,
        "target_length": "32k",  # the command line's is another, and holds
        "train_length": "1k",
        "batch_tokens": "12k",
        "tokens": "5m",
        "optimizer": {"learning_rate": 1e-3, "warmup": None},
    }
    found = dial(given)
    assert set(values(found)) == {
        "target_length",
        "methods",
        "optimizer.weight_decay",
        "optimizer.warmup",
        "optimizer.schedule",
    }
    config = RunConfig.parse(found.fill(given), "test")
    assert (config.target_length, config.train_length, config.tokens) == (16384, 1024, 5 * 1024 * 1024)
    assert (config.optimizer.learning_rate, config.optimizer.warmup) == (1e-3, 0.01)


def test_methods_that_are_given_decide_the_training_window() -> None:
    assert values(dial({**TEXT, "methods": "pi"})) | {"train_length": 16384, "steps": 400} == values(
        dial({**TEXT, "methods": "pi"})
    )
    assert values(dial({**TEXT, "methods": "pi+pose"}))["train_length"] == 2048
    assert values(dial({**TEXT, "train_length": "16k"}))["methods"] == "yarn"


def test_a_batch_that_the_pass_does_not_divide_is_split_evenly() -> None:
    """24 windows of 2k: at most 8 fit in 16k, and 8 divides 24; of 10 windows 5 do."""
    assert values(dial({**TEXT, "batch_tokens": "48k"}))["micro_batch_tokens"] == 8 * 2048
    assert values(dial({**TEXT, "batch_tokens": "20k"}))["micro_batch_tokens"] == 5 * 2048
    assert "micro_batch_tokens" not in values(dial({**TEXT, "batch_tokens": "16k"}))


def test_each_choice_says_why_and_a_factor_beyond_all_reports_says_so() -> None:
    said = str(dial())
    assert "methods: yarn+pose  (yarn reaches factor 32 with training; pose moves chunks" in said
    assert "test at: 2k,4k,8k,14k,16k  (" in said
    assert all(choice.reason for choice in dial().choices)
    assert "reported to factor 32 only: measure" in str(dial(target=2048 * 64))


@pytest.mark.parametrize(
    ("given", "target", "error", "says"),
    [
        (TEXT, 2048, LengthError, "--target-length 2k is not longer than the model's window of 2k"),
        ({**TEXT, "train_length": "x"}, 16384, LengthError, "'x' is not a length"),
        ({**TEXT, "batch_tokens": "x"}, 16384, ConfigError, "'batch_tokens': 'x' is not a length"),
        ({**TEXT, "methods": "yarm"}, 16384, MethodError, "unknown method"),
    ],
)
def test_mistakes_are_errors(given: dict[str, Any], target: int, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        dial(given, target=target)


def test_a_group_of_settings_that_is_none_is_told_by_name() -> None:
    with pytest.raises(ConfigError, match="'optimizer'"):
        RunConfig.parse(dial({**TEXT, "optimizer": "fast"}).fill({**TEXT, "optimizer": "fast"}), "test")


def test_the_recipe_in_the_folder_is_what_the_dial_says() -> None:
    recipe = RunConfig.from_yaml(Path(__file__).parents[2] / "recipes" / "extend-pose.yaml")
    given = {"name": "extend-pose", "model": {"from": "model"}, "data": {"text": "books"}}
    assert RunConfig.parse(dial(given).fill(given), "test") == recipe
