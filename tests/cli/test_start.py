"""`longspan extend --start` and the recipe that turns a trained model into CoCA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import longspan
from longspan import surgery
from longspan.train.config import RunConfig
from longspan.train.run import train

Done = Callable[..., str]
RECIPE = Path(__file__).parents[2] / "recipes" / "convert-coca.yaml"


@pytest.mark.parametrize("start", ["mean", "random", "fit"])
def test_a_model_is_saved_with_the_start_that_was_asked_for(
    model_folder: Path, book: Path, done: Done, tmp_path: Path, start: str
) -> None:
    more = ["--text", book] if start == "fit" else []
    options = ["--method", "coca", "--target-length", "64", "--out", tmp_path / "out"]
    done("extend", model_folder, *options, "--start", start, *more)
    before = AutoModelForCausalLM.from_pretrained(model_folder).model.layers[0].self_attn
    model = longspan.load(tmp_path / "out")
    assert surgery.current_methods(model) == (longspan.Coca(),)
    after = model.model.layers[0].self_attn
    assert torch.equal(after.q_proj.weight, before.q_proj.weight)
    assert torch.equal(after.k_proj.weight, before.k_proj.weight) == (start == "mean")
    halves = after.k_proj.weight.view(2, 2, 4, 32)
    assert torch.equal(halves[:, 0], halves[:, 1]) == (start == "fit")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "yarn", "--start", "mean"], "a start is for CoCA"),
        (["--method", "coca", "--start", "fit"], "--start fit needs --text"),
        (["--method", "coca", "--start", "mean", "--text", "BOOK"], "--text has no effect without --start fit"),
        (["--method", "coca", "--start", "fit", "--text", "nowhere.txt"], "nowhere.txt does not exist"),
    ],
)
def test_a_start_without_effect_is_refused(
    model_folder: Path, book: Path, refused: Done, tmp_path: Path, options: list[str], said: str
) -> None:
    given = [str(book) if option == "BOOK" else option for option in options]
    out = tmp_path / "out"
    assert said in refused("extend", model_folder, "--target-length", "256", "--out", out, *given)
    assert not out.exists()


def test_the_recipe_turns_a_model_into_coca_in_three_stages(model_folder: Path, book: Path, tmp_path: Path) -> None:
    small = ["train_length=64", "tokens=384", "batch_tokens=128", "micro_batch_tokens=64", "device=cpu"]
    given = [f"model.from={model_folder}", f"data.text={book}", f"distill.from={model_folder}"]
    config = RunConfig.from_yaml(RECIPE, [*small, *given])
    assert config.trainable == {0: ["k_proj"], 0.333: ["q_proj", "k_proj", "v_proj"], 0.667: ["*"]}
    assert [round(share * config.total_steps) for share in config.trainable] == [0, 1, 2]
    model = longspan.load(train(config, tmp_path / "run", progress=False))
    assert surgery.current_methods(model) == (longspan.Coca(),)
