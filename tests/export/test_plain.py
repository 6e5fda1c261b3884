"""Folders that transformers loads by its own classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import longspan
from conftest import FAMILIES, make_model
from export.conftest import logits, tokens
from longspan.export import export
from tolerances import LOGITS, logit_distance

Extended = Callable[..., PreTrainedModel]

LENGTHS = (24, 64, 65, 200, 300)
"""Inside the trained window of 64, at its end, beyond it, and beyond the target of 256; shortest first, since
transformers keeps the base that a longer input made it take under dynamic NTK."""

TYPES = {
    "rope": "default",
    "pi": "linear",
    "pi(factor=8.0)": "linear",
    "ntk": "default",
    "base_change": "default",
    "dynamic_ntk": "dynamic",
    "dynamic_ntk(factor=1.0)": "dynamic",
    "dynamic_ntk(static_for='target')": "default",
    "yarn": "yarn",
    "yarn(attention_factor=1.3, truncate=False)": "yarn",
    "yarn(ramp='turns')": "longrope",
    "yarn(ramp='harmonic')": "longrope",
    "llama3": "llama3",
    "crd_ntk": "default",
    "pi+pose": "linear",
    "pose": "default",
}


def read_config(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())


def test_what_acts_in_training_only_is_left_out_with_a_word(extended: Extended, tmp_path: Path) -> None:
    model = extended("coca+yarn+pose(chunks=3)")
    assert export(tmp_path / "source", tmp_path / "out").code
    said = (tmp_path / "out" / "README.md").read_text()
    assert "`pose(chunks=3)` acted in training only and is not part of this folder" in said
    loaded = longspan.load(tmp_path / "out")
    assert [type(method).__name__ for method in longspan.plan(loaded, ()).methods] == ["Coca", "Yarn"]
    assert torch.equal(logits(loaded, 100), logits(model, 100))


@pytest.mark.parametrize(("methods", "kind"), TYPES.items())
def test_the_plain_model_gives_the_logits_of_the_extended_one(
    extended: Extended, tmp_path: Path, methods: str, kind: str
) -> None:
    model = extended(methods)
    done = export(tmp_path / "source", tmp_path / "out")
    assert (done.rope_type, done.code, done.reason) == (kind, False, None)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(plain).__module__ == "transformers.models.llama.modeling_llama"
    for length in LENGTHS:
        assert logit_distance(logits(plain, length), logits(model, length)) < LOGITS


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("methods", ["pi", "yarn(ramp='turns')"])
def test_every_family_is_plain_or_says_why_not(extended: Extended, tmp_path: Path, family: str, methods: str) -> None:
    model = extended(methods, family)
    done = export(tmp_path / "source", tmp_path / "out")
    partial = methods != "pi" and family in {"gpt_neox", "stablelm"}
    assert done.code == (partial or family == "gptj"), done.reason
    if done.code:
        assert "rotated part of a head" in done.reason if partial else "no rope parameters" in done.reason
        return
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(plain).__module__.startswith("transformers.")
    for length in (24, 200):
        assert logit_distance(logits(plain, length), logits(model, length)) < LOGITS


def test_two_sets_of_longrope_are_told_apart_by_the_length(extended: Extended, tmp_path: Path) -> None:
    model = extended("long_rope(short_factor=[1, 1, 1.5, 2], long_factor=[1, 2, 3, 4])")
    assert export(tmp_path / "source", tmp_path / "out").rope_type == "longrope"
    assert read_config(tmp_path / "out")["rope_parameters"]["short_factor"] == [1, 1, 1.5, 2]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for length in LENGTHS:
        assert logit_distance(logits(plain, length), logits(model, length)) < LOGITS


def test_a_process_that_has_no_longspan_gets_the_same_logits(
    extended: Extended, tmp_path: Path, without_longspan: Callable[..., str]
) -> None:
    expected, folders = {}, []
    for methods in ("pi", "dynamic_ntk", "yarn", "yarn(ramp='turns')"):
        model = extended(methods)
        folders.append(tmp_path / f"out{len(folders)}")
        export(tmp_path / "source", folders[-1])
        expected |= {f"{folders[-1].name}.{length}": logits(model, length) for length in LENGTHS}
    save_file({str(length): tokens(length) for length in LENGTHS}, tmp_path / "tokens.safetensors")
    without_longspan(
        """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
here = Path(sys.argv[1])
inputs = load_file(here / "tokens.safetensors")
found = {}
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    for length in sorted(inputs, key=int):
        with torch.no_grad():
            found[f"{Path(folder).name}.{length}"] = model(inputs[length]).logits
save_file(found, here / "found.safetensors")
""",
        tmp_path,
        *folders,
        installed=False,
    )
    found = load_file(tmp_path / "found.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert logit_distance(found[name], value) < LOGITS, name


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_the_weights_are_those_of_the_plain_model_under_its_names(
    extended: Extended, tmp_path: Path, family: str
) -> None:
    extended("yarn", family)
    export(tmp_path / "source", tmp_path / "out")
    make_model(family).save_pretrained(tmp_path / "plain")
    plain, found = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "out"))
    assert found.keys() == plain.keys()
    assert all(found[name].equal(plain[name]) for name in plain)
    assert not list((tmp_path / "out").glob("*.bin"))
    config = read_config(tmp_path / "out")
    assert config["model_type"] == family
    assert config["architectures"] == read_config(tmp_path / "plain")["architectures"]
    assert not {"longspan", "auto_map"} & set(config)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ("pi", {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
        ("base_change", {"rope_type": "default", "rope_theta": 500000.0}),
        ("ntk", {"rope_type": "default", "rope_theta": pytest.approx(10000 * 4 ** (8 / 6))}),
    ],
)
def test_rope_parameters_are_written_fresh(
    extended: Extended, tmp_path: Path, methods: str, expected: dict[str, object]
) -> None:
    extended(methods)
    export(tmp_path / "source", tmp_path / "out")
    config = read_config(tmp_path / "out")
    assert config["rope_parameters"] == expected
    assert config["max_position_embeddings"] == 256


def test_dynamic_ntk_keeps_the_trained_length_by_which_it_grows(extended: Extended, tmp_path: Path) -> None:
    extended("dynamic_ntk")
    export(tmp_path / "source", tmp_path / "out")
    assert read_config(tmp_path / "out")["max_position_embeddings"] == 64
    assert "leaves cached keys" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_without_methods_of_ours_keeps_its_config(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    model = make_model("llama", rope_parameters=rope, max_position_embeddings=256)
    model.save_pretrained(tmp_path / "source")
    done = export(tmp_path / "source", tmp_path / "out")
    assert (done.original_length, done.target_length, done.rope_type) == (64, 256, "yarn")
    assert read_config(tmp_path / "out") == read_config(tmp_path / "source")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert logit_distance(logits(plain, 200), logits(model, 200)) < LOGITS


def test_an_export_can_be_exported_and_extended_again(extended: Extended, tmp_path: Path) -> None:
    extended("yarn")
    export(tmp_path / "source", tmp_path / "out")
    assert export(tmp_path / "out", tmp_path / "again", to="vllm").max_length == 256
    model = longspan.load(tmp_path / "out")
    with pytest.raises(longspan.LongspanError, match="already extended"):
        longspan.extend(model, "pi", target_length=512)


def test_a_dtype_converts_the_weights(extended: Extended, tmp_path: Path) -> None:
    extended("yarn")
    export(tmp_path / "source", tmp_path / "out", dtype="bfloat16")
    assert read_config(tmp_path / "out")["dtype"] == "bfloat16"
    assert {value.dtype for value in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize(("slower", "cooler"), [(1.0, 1.1), (1.01, 1.0)])
def test_a_rope_type_that_transformers_computes_otherwise_is_not_believed(
    extended: Extended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slower: float, cooler: float
) -> None:
    extended("yarn")
    own = ROPE_INIT_FUNCTIONS["yarn"]

    def other(*arguments: object, **options: object) -> tuple[torch.Tensor, float]:
        frequencies, root = own(*arguments, **options)
        return frequencies / slower, root / cooler

    monkeypatch.setitem(ROPE_INIT_FUNCTIONS, "yarn", other)
    assert export(tmp_path / "source", tmp_path / "out").rope_type == "longrope"
