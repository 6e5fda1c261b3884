"""Model folders that bring code, or whose config.json is damaged: each is refused in one line, and no code runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import longspan
from longspan.errors import CheckpointError
from longspan.export import export
from longspan.models import load_model, load_outline, load_tokenizer

OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
open({ran!r}, "w").close()
class Config(LlamaConfig):
    model_type = {model_type!r}
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def saved(tmp_path: Path, tiny_model: Callable[[str], PreTrainedModel]) -> Path:
    folder = tmp_path / "saved"
    tiny_model("llama").save_pretrained(folder)
    return folder


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def plant_code(folder: Path, model_type: str) -> Path:
    """Let a folder bring code; the file that this gives is there as soon as it has run."""
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "planted.Config", "AutoModelForCausalLM": "planted.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type, "auto_map": auto_map}))
    ran = folder / "ran"
    (folder / "planted.py").write_text(OWN_CODE.format(ran=str(ran), model_type=model_type))
    return ran


@pytest.mark.parametrize("model_type", ["planted", "llama"])
@pytest.mark.parametrize("loader", [load_model, load_outline, longspan.load])
def test_code_that_a_model_brings_is_named_and_runs_only_if_trusted(
    saved: Path, loader: Callable[..., PreTrainedModel], model_type: str
) -> None:
    ran = plant_code(saved, model_type)
    with pytest.raises(CheckpointError, match=r"brings code of its own \(planted\.py\).*trust_remote_code=True"):
        loader(str(saved))
    assert not ran.exists()
    model = loader(str(saved), trust_remote_code=True)
    assert ran.exists()
    assert type(model).__name__ == "Model"


def test_code_that_a_tokenizer_brings_is_named_and_runs_only_if_trusted(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    ran = plant_code(folder, "llama")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "planted.Tokenizer"]}}
    path.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"brings code of its own \(planted\.py\)"):
        load_tokenizer(folder)
    assert not ran.exists()
    assert type(load_tokenizer(folder, trust_remote_code=True)).__name__ == "Tokenizer"
    assert ran.exists()


def test_code_in_another_repository_is_named_with_it(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "some/where--deep.module.Config"}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"\(some/where/deep\.module\.py\)"):
        load_model(saved)


def test_what_longspan_exported_with_code_loads_without_running_it(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(model_folder, device="cpu")
    longspan.extend(model, "coca+yarn", target_length=256)
    model.save_pretrained(tmp_path / "extended")
    export(tmp_path / "extended", tmp_path / "out")
    module = tmp_path / "out" / "modeling_longspan.py"
    module.write_text(module.read_text() + f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
    ids = torch.arange(3, 40)[None]
    for trusted in (False, True):
        again = longspan.load(tmp_path / "out", trust_remote_code=trusted)
        with torch.no_grad():
            assert torch.equal(again(ids).logits, model(ids).logits)
    assert not (tmp_path / "ran").exists()
    longspan.extend(again, "pi", target_length=1024, again=True)
    assert not hasattr(again.config, "auto_map")


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ([1], "rope_parameters must be a table"),
        ({"rope_type": "default"}, "has lost rope_theta"),
        ({"rope_type": "default", "rope_theta": "big"}, "rope_theta 'big', which must be a number"),
        ({"rope_type": "fancy", "rope_theta": 1e4}, "rope_type 'fancy', which transformers does not know"),
        ({"rope_type": "yarn", "rope_theta": 1e4}, "rope_type 'yarn' but no factor"),
    ],
)
def test_rope_parameters_that_transformers_would_fill_or_choke_on_are_refused(
    saved: Path, rope: object, said: str
) -> None:
    change_config(saved, rope_parameters=rope)
    for loader in (load_model, load_outline, longspan.load):
        with pytest.raises(CheckpointError, match=said):
            loader(str(saved))


@pytest.mark.parametrize("kept", ["sliding_attention", "full_attention", None])
def test_nested_rope_parameters_without_one_part_are_refused(
    kept: str | None, tmp_path: Path, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    model = tiny_model("gemma3_text")
    model.save_pretrained(tmp_path)
    rope = model.config.rope_parameters
    change_config(tmp_path, rope_parameters=rope["full_attention"] if kept is None else {kept: rope[kept]})
    with pytest.raises(CheckpointError, match=r"rope_parameters has no part '(full|sliding)_attention'"):
        load_model(tmp_path)


@pytest.mark.parametrize("length", [64.0, 64.5, "64", None])
def test_a_length_that_is_no_whole_number_is_refused_in_one_line(saved: Path, length: object) -> None:
    change_config(saved, max_position_embeddings=length)
    with pytest.raises(CheckpointError, match="'max_position_embeddings' expected int") as caught:
        load_model(str(saved))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"target_length": "256 tokens"}, {"target_length": 256.5}, {"methods": ["yarn"]}, {"methods": None}]
)
def test_methods_and_lengths_that_were_edited_into_nonsense_are_refused(
    values: dict, tmp_path: Path, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    model = tiny_model("llama")
    longspan.extend(model, "yarn", target_length=256)
    model.save_pretrained(tmp_path)
    change_config(tmp_path, longspan={**model.config.longspan, **values})
    with pytest.raises(CheckpointError, match="must name its methods and lengths under 'longspan'"):
        load_model(str(tmp_path))


def test_an_adapter_alone_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    for loader in (load_model, load_tokenizer, longspan.load):
        with pytest.raises(CheckpointError, match="holds an adapter alone: merge it"):
            loader(tmp_path)
