"""`longspan export`, and each mistake that it answers with one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import longspan
from longspan.files import file_hash

Done = Callable[..., str]
Refused = Callable[..., str]


@pytest.fixture
def extended(model_folder: Path, done: Done, tmp_path: Path) -> Callable[[str], Path]:
    """extended("yarn") is the folder that `longspan extend` makes."""

    def make(method: str) -> Path:
        done("extend", model_folder, "--method", method, "--target-length", "256", "--out", tmp_path / "longer")
        return tmp_path / "longer"

    return make


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in folder.iterdir()}


def test_export_writes_a_folder_that_transformers_loads_and_leaves_the_source_alone(
    extended: Callable[[str], Path], done: Done, tmp_path: Path
) -> None:
    source, out = extended("yarn"), tmp_path / "out"
    before = hashes(source)
    said = done("export", source, "--to", "hf", "--out", out, "--json", tmp_path / "export.json")
    assert said == f"{out}: yarn, 64 -> 256 tokens; plain, rope type yarn\n"
    assert hashes(source) == before
    assert {path.name for path in out.iterdir()} == {*before, "README.md"}
    result = json.loads((tmp_path / "export.json").read_text())
    assert (result["code"], result["rope_type"], result["target_length"]) == (False, "yarn", 256)
    ids = AutoTokenizer.from_pretrained(out)("It was calm. " * 50, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(out)(ids).logits
        torch.testing.assert_close(found, longspan.load(source)(ids).logits, rtol=1e-4, atol=1e-4)


def test_export_says_why_a_folder_needs_longspan_and_what_serves_it(
    extended: Callable[[str], Path], done: Done, tmp_path: Path
) -> None:
    said = done("export", extended("coca+pi"), "--to", "vllm", "--out", tmp_path / "out")
    assert said.splitlines() == [
        f"{tmp_path / 'out'}: coca+pi, 64 -> 256 tokens; with code that imports longspan",
        "code because Coca changes what is rotated, which no rope type does",
        f"vLLM grants 256 tokens: vllm serve {tmp_path / 'out'} --max-model-len 256 --enforce-eager",
    ]


def test_export_writes_one_file_for_llama_cpp(extended: Callable[[str], Path], done: Done, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'longspan[gguf]'")
    source, out = extended("yarn"), tmp_path / "longer.gguf"
    said = done("export", source, "--to", "gguf", "--out", out, "--json", tmp_path / "export.json")
    assert said == f"{out}: yarn, 64 -> 256 tokens; for llama.cpp, rope by yarn\n"
    assert json.loads((tmp_path / "export.json").read_text())["to"] == "gguf"
    fields = gguf.GGUFReader(out).fields
    assert fields["general.name"].contents() == "longer"
    assert fields["general.description"].contents() == "yarn: 64 -> 256 tokens"
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_llama_cpp_cannot_compute_is_refused_in_one_line(
    extended: Callable[[str], Path], refused: Refused, tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'longspan[gguf]'")
    line = refused("export", extended("coca+pi"), "--to", "gguf", "--out", tmp_path / "out.gguf")
    assert "Coca changes what is rotated" in line
    assert not (tmp_path / "out.gguf").exists()


def test_a_plain_folder_can_be_exported_too(model_folder: Path, done: Done, tmp_path: Path) -> None:
    assert "rope, 64 -> 64 tokens; plain" in done("export", model_folder, "--to", "hf", "--out", tmp_path / "out")


def test_a_place_that_is_taken_is_refused_and_replaced_when_asked(
    model_folder: Path, done: Done, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    command = ["export", model_folder, "--to", "hf", "--out", tmp_path / "out"]
    assert "out exists: choose another --out" in refused(*command)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    done(*command, "--overwrite")
    assert not (tmp_path / "out" / "notes.txt").exists()
    copied = Path(shutil.copytree(model_folder, tmp_path / "copied"))
    assert "copied is the model itself" in refused("export", copied, "--to", "hf", "--out", copied, "--overwrite")


def test_mistakes_are_named(
    model_folder: Path, extended: Callable[[str], Path], refused: Refused, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "nowhere does not exist" in refused("export", tmp_path / "nowhere", "--to", "hf", "--out", out)
    assert "'onnx'" in refused("export", model_folder, "--to", "onnx", "--out", out)
    assert "records.jsonl does not exist" in refused(
        "export", model_folder, "--to", "hf", "--out", out, "--records", tmp_path / "records.jsonl"
    )
    (tmp_path / "file").write_text("in the way")
    assert "cannot write" in refused("export", model_folder, "--to", "hf", "--out", tmp_path / "file" / "out")
    assert "attention mask" in refused("export", extended("alibi"), "--to", "vllm", "--out", out)
    assert not out.exists()
