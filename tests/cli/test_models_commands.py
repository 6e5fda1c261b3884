"""plan, extend and generate on a real folder, by way of the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import longspan

Done = Callable[..., str]


def test_plan_writes_nothing_and_says_what_would_change(model_folder: Path, done: Done, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in model_folder.rglob("*")}
    said = done(
        "plan", model_folder, "--target-length", "1k", "--method", "coca+yarn", "--json", tmp_path / "plan.json"
    )
    assert {path: path.stat().st_mtime_ns for path in model_folder.rglob("*")} == before
    assert "model.rotary_emb.inv_freq <- Yarn" in said
    assert "model.layers.1.self_attn.k_proj <- Coca" in said
    result = json.loads((tmp_path / "plan.json").read_text())
    assert result["factor"] == 16
    assert [row["length"] for row in result["memory"]] == [64, 128, 256, 512, 1024]


def cached(model: PreTrainedModel, length: int) -> int:
    """Bytes of the keys and values after `length` tokens."""
    with torch.no_grad():
        layers = model(torch.zeros(1, length, dtype=torch.long)).past_key_values.layers
    # storage of a slice counts in whole; what is kept for good is what a copy takes
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


@pytest.mark.parametrize(
    "method",
    ["yarn", "coca", "pope", "dynamic_ntk"]
    + [
        pytest.param(m, marks=pytest.mark.slow)
        for m in ("none", "pope(phase=False)", "coca+dynamic_ntk", "alibi", "pi+pose")
    ],
)
def test_plan_counts_the_cache_that_a_forward_makes(
    model_folder: Path, done: Done, tmp_path: Path, method: str
) -> None:
    options = ["--target-length", "128", "--method", method]
    done("plan", model_folder, *options, "--json", tmp_path / "plan.json")
    rows = json.loads((tmp_path / "plan.json").read_text())["memory"]
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    longspan.extend(model, method, target_length=128)
    assert rows[0]["weights"] == sum(parameter.nbytes for parameter in model.parameters())
    assert {row["length"]: row["cache"] for row in rows} == {length: cached(model, length) for length in (64, 128)}


def test_plan_reads_a_llama2c_checkpoint_and_a_model_saved_by_longspan(
    stories: Path, model_folder: Path, done: Done, tmp_path: Path
) -> None:
    assert "512 -> 4k tokens, factor 8" in done("plan", stories, "--target-length", "4k")
    done("extend", model_folder, "--method", "coca+pi", "--target-length", "256", "--out", tmp_path / "out")
    assert "methods in force: coca+pi" in done("plan", tmp_path / "out", "--target-length", "512")


def test_plan_recommends_what_then_works(model_folder: Path, done: Done, tmp_path: Path) -> None:
    said = done("plan", model_folder, "--target-length", "256", "--serve", "vllm", "--json", tmp_path / "plan.json")
    result = json.loads((tmp_path / "plan.json").read_text())
    method = result["recommendation"]["method"]
    assert f"Recommended: {method}, without training: factor 4 is within" in " ".join(said.split())
    assert all(len(line) <= 100 for line in said.splitlines()[1:])
    served = {answer["server"]: answer for answer in result["servers"]}
    assert served["vllm"]["max_length"] == 256
    done("extend", model_folder, "--method", method, "--target-length", "256", "--out", tmp_path / "out")
    done("export", tmp_path / "out", "--to", "vllm", "--out", tmp_path / "vllm")
    assert served["vllm"]["accepted"]


def test_plan_needs_nothing_but_the_config(model_folder: Path, done: Done, tmp_path: Path) -> None:
    shutil.copy(model_folder / "config.json", tmp_path)
    whole = done("plan", model_folder, "--target-length", "128").partition(": ")[2]
    assert done("plan", tmp_path, "--target-length", "128").partition(": ")[2] == whole


def test_plan_goes_on_from_an_extended_model(model_folder: Path, done: Done, tmp_path: Path) -> None:
    done("extend", model_folder, "--method", "yarn", "--target-length", "128", "--out", tmp_path / "out")
    said = " ".join(done("plan", tmp_path / "out", "--target-length", "256").split())
    assert "It is extended to 128 tokens already: factors count from 64, and `longspan extend` takes --again" in said
    assert "Recommended: yarn, without training: it is in force already" in said


def test_wanting_training_and_ruling_it_out_change_the_advice(model_folder: Path, done: Done) -> None:
    def advice(length: str, *options: str) -> str:
        said = " ".join(done("plan", model_folder, "--target-length", length, *options).split())
        return said.partition("Recommended: ")[2].partition(":")[0]

    assert advice("256", "--train") == "yarn, then training at 256"
    assert advice("1k", "--no-train") == "no method for sure; try yarn"


def test_an_extended_model_loads_and_generates_as_it_was(model_folder: Path, done: Done, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["extend", model_folder, "--method", "yarn", "--target-length", "256", "--out", out]
    done(*arguments, "--json", tmp_path / "extend.json")
    result = json.loads((tmp_path / "extend.json").read_text())
    assert (result["original_length"], result["target_length"]) == (64, 256)
    assert result["methods"][0]["name"] == "yarn"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extend.json", "out"]

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    longspan.extend(model, "yarn", target_length=256)
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("the sea was", return_tensors="pt").input_ids
    mask = torch.ones_like(ids)
    made = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    expected = made[0, ids.shape[1] :].tolist()
    done("generate", out, "--prompt", "the sea was", "--max-new-tokens", "8", "--json", tmp_path / "text.json")
    assert json.loads((tmp_path / "text.json").read_text())["tokens"] == expected


def test_overwrite_replaces_the_folder_whole(model_folder: Path, done: Done, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["extend", model_folder, "--method", "pi", "--target-length", "128", "--out", out]
    done(*arguments)
    (out / "stale").write_text("")
    done(*arguments, "--overwrite")
    assert not (out / "stale").exists()
    assert (out / "model.safetensors").exists()


def test_dtype_and_device_take_effect(model_folder: Path, done: Done, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done(
        *["extend", model_folder, "--method", "pi", "--target-length", "128", "--out", out],
        *["--dtype", "bfloat16", "--device", "cpu"],
    )
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16


def test_a_full_disk_leaves_nothing_half_written(
    model_folder: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    def full(self: PreTrainedModel, folder: Path, **_: object) -> None:
        (Path(folder) / "config.json").write_text("{}")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    line = refused("extend", model_folder, "--method", "pi", "--target-length", "128", "--out", tmp_path / "out")
    assert "No space left" in line
    assert list(tmp_path.iterdir()) == []


def test_generate_draws_by_the_seed_alone(model_folder: Path, done: Done) -> None:
    def draw(seed: int) -> str:
        return done("generate", model_folder, "--prompt", "the", "--temperature", "1", "--seed", seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_the_prompt_may_be_a_file(model_folder: Path, done: Done, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("the sea was")
    from_file = done("generate", model_folder, "--prompt", tmp_path / "prompt.txt", "--max-new-tokens", "5")
    assert from_file == done("generate", model_folder, "--prompt", "the sea was", "--max-new-tokens", "5")
    assert done("generate", model_folder, "--prompt", "the sea " * 300, "--max-new-tokens", "1") is not None


def test_stories260k_goes_on_as_its_authors_say(stories: Path, done: Done) -> None:
    said = done("generate", stories, "--prompt", "Once upon a time", "--max-new-tokens", "40")
    assert said.startswith(", there was a little girl named Lily. She loved to play outside in the park.")
