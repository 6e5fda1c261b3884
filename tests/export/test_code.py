"""Folders that take their classes from longspan."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import longspan
from conftest import make_model
from export.conftest import logits, tokens
from longspan import surgery
from longspan.export import export
from longspan.registry import format_methods
from tolerances import LOGITS, logit_distance

Extended = Callable[..., PreTrainedModel]


@pytest.mark.parametrize(
    ("methods", "reason"),
    [
        ("coca", "Coca changes what is rotated"),
        ("coca(form='slack')+yarn", "Coca changes what is rotated"),
        ("pope", "PoPE changes what is rotated"),
        ("alibi", "Alibi adds a bias"),
        ("log_n", "LogN scales each query by its position"),
        ("long_rope(start_tokens=4)", "LongRope turns the first tokens at a speed of their own"),
    ],
)
def test_what_no_rope_type_says_is_saved_with_its_reason(
    extended: Extended, tmp_path: Path, methods: str, reason: str
) -> None:
    model = extended(methods)
    done = export(tmp_path / "source", tmp_path / "out")
    assert done.code
    assert done.reason is not None
    assert done.reason.startswith(reason)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "longspan_llama"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")  # longspan is imported here: no code of the folder
    assert type(again).__module__ == "longspan.surgery.saved"
    assert format_methods(surgery.current_methods(again)) == format_methods(surgery.current_methods(model))
    assert logits(again, 200).equal(logits(model, 200))


LOAD = """
import re, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM
here, folder = Path(sys.argv[1]), sys.argv[2]
def refused(**options):
    try:
        AutoModelForCausalLM.from_pretrained(folder, **options)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
"""


def test_a_process_that_knows_nothing_of_longspan_loads_the_code_only_when_told_to(
    extended: Extended, tmp_path: Path, without_longspan: Callable[..., str]
) -> None:
    model = extended("pope(width='half')+yarn")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)  # phases that are not where they start
    model.save_pretrained(tmp_path / "source")
    export(tmp_path / "source", tmp_path / "out")
    save_file({"tokens": tokens(200)}, tmp_path / "tokens.safetensors")
    said = without_longspan(
        LOAD
        + """
print(refused())
assert "longspan" not in sys.modules
ids = load_file(here / "tokens.safetensors")["tokens"]
causal = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
decoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
causal.save_pretrained(here / "resaved")
with torch.no_grad():
    hidden = causal.lm_head(decoder(ids).last_hidden_state)
    save_file({"logits": causal(ids).logits, "decoder": hidden}, here / "found.safetensors")
""",
        tmp_path,
        tmp_path / "out",
    )
    assert re.search(r"ValueError: .*trust_remote_code=True", said)
    found = load_file(tmp_path / "found.safetensors")
    assert logit_distance(found["logits"], logits(model, 200)) < LOGITS
    assert logit_distance(found["decoder"], logits(model, 200)) < LOGITS
    written = {path.name for path in (tmp_path / "resaved").iterdir()}
    assert written == {"config.json", "generation_config.json", "model.safetensors", "modeling_longspan.py"}


def test_a_process_without_longspan_is_told_to_install_it(
    extended: Extended, tmp_path: Path, without_longspan: Callable[..., str]
) -> None:
    extended("coca")
    export(tmp_path / "source", tmp_path / "out")
    said = without_longspan(LOAD + "print(refused(trust_remote_code=True))", "", tmp_path / "out", installed=False)
    assert said.strip() == (
        "ImportError: this model's attention is made by the package longspan: install it, then load again"
    )


def test_an_old_scaling_that_a_method_stands_for_is_not_in_the_config_twice(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
    model = make_model("llama", rope_parameters=rope)
    longspan.extend(model, "coca")
    model.save_pretrained(tmp_path / "source")
    export(tmp_path / "source", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 5000.0}
    again = longspan.load(tmp_path / "out")
    assert format_methods(surgery.current_methods(again)) == "pi(factor=4.0)+coca"
    assert logits(again, 100).equal(logits(model, 100))
