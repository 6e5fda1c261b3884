"""What vLLM makes of an exported folder, by the rules in its source: vLLM itself cannot be installed everywhere."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaAttention

from conftest import FAMILIES
from export.conftest import logits, tokens
from longspan.errors import FamilyError, MethodError
from longspan.export import export, vllm_max_length
from longspan.export.vllm import calls_one_interface
from longspan.surgery.families import FAMILIES as ROWS
from tolerances import LOGITS, logit_distance

Extended = Callable[..., PreTrainedModel]

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
LONGROPE = {"rope_type": "longrope", "factor": 32.0, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("config", "tokenizer_max", "expected"),
    [
        ({"max_position_embeddings": 4096}, None, 4096),
        ({"max_position_embeddings": 4096}, 2048, 2048),
        ({"max_position_embeddings": 4096}, 10**30, 4096),
        ({"n_positions": 1024}, None, 1024),
        ({"max_position_embeddings": 8192, "max_sequence_length": 2048}, None, 2048),
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, None, 131072),
        ({}, None, 2048),
        ({}, 512, 512),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default"}}, None, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}, None, 16384),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 2048, 8192),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "dynamic", "factor": 2.5}}, None, 10240),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "my_own", "factor": 2.0}}, None, 8192),
        ({"max_position_embeddings": 16384, "rope_parameters": YARN}, None, 16384),
        ({"max_position_embeddings": 4096, "rope_parameters": YARN}, 4096, 16384),
        ({"max_position_embeddings": 131072, "rope_parameters": LLAMA3}, None, 131072),
        ({"max_position_embeddings": 131072, "rope_parameters": LONGROPE}, None, 131072),
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_type": "default"},
                },
            },
            None,
            32768,
        ),
        (
            {
                "model_type": "gemma3_text",
                "max_position_embeddings": 131072,
                "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
            },
            None,
            131072,
        ),
    ],
)
def test_lengths_are_multiplied_as_vllm_multiplies_them(
    config: dict[str, Any], tokenizer_max: int | None, expected: int
) -> None:
    assert vllm_max_length(config, tokenizer_max) == expected


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("methods", "kind", "written"),
    [
        ("pi", "linear", 64),  # vLLM multiplies it by 4
        ("pi(factor=8.0)", "linear", 32),
        ("ntk", "default", 256),
        ("dynamic_ntk(static_for='target')", "default", 256),
        ("yarn", "yarn", 256),
        ("yarn(factor=2.0)", "longrope", 256),  # under yarn vLLM would grant 2 x 64
        ("yarn(attention_factor=1.3)", "longrope", 256),
        ("yarn(ramp='turns')", "longrope", 256),
        ("llama3", "llama3", 256),
        ("coca+yarn", "default", 256),
        ("log_n", "default", 256),
    ],
)
def test_the_length_that_vllm_derives_is_the_target(
    extended: Extended, tmp_path: Path, methods: str, kind: str, written: int
) -> None:
    model = extended(methods)
    done = export(tmp_path / "source", tmp_path / "out", to="vllm")
    config = read_config(tmp_path / "out")
    assert (done.rope_type, config["max_position_embeddings"]) == (kind, written)
    assert done.max_length == vllm_max_length(config) == 256
    if not done.code:
        plain = longspan_free(tmp_path / "out")
        for length in (24, 200):
            assert logit_distance(logits(plain, length), logits(model, length)) < LOGITS
    card = (tmp_path / "out" / "README.md").read_text()
    assert "vllm serve out --max-model-len 256" + " --enforce-eager" * done.code + "`" in card
    assert ("give `--max-model-len`" in card) == (kind == "longrope")


def longspan_free(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__module__.startswith("transformers.")
    return model


def test_longrope_names_its_temperature_as_vllm_reads_it(extended: Extended, tmp_path: Path) -> None:
    extended("yarn(ramp='turns')")
    export(tmp_path / "source", tmp_path / "out", to="vllm")
    rope = read_config(tmp_path / "out")["rope_parameters"]
    assert rope["short_mscale"] == rope["long_mscale"] == rope["attention_factor"] == pytest.approx(1.1386294361)


def test_the_tokenizer_does_not_limit_the_length(extended: Extended, model_folder: Path, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folder)
    tokenizer.model_max_length = 64
    extended("yarn", tokenizer=tokenizer)
    export(tmp_path / "source", tmp_path / "out", to="vllm")
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert vllm_max_length(read_config(tmp_path / "out"), written["model_max_length"]) == 256
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path / "out").model_max_length == 256


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("alibi", r"Alibi lives in the attention mask, which vLLM does not read: .*--to hf"),
        ("coca+alibi", r"Alibi lives in the attention mask"),
        ("dynamic_ntk", r"DynamicNtk follows the length, .*static_for='target'"),
        ("coca+dynamic_ntk", r"DynamicNtk follows the length"),
        ("long_rope", r"LongRope follows the length"),
        ("pope", r"PoPE makes 16 rotated numbers a key of 8, .*keeps the width"),
    ],
)
def test_what_vllm_cannot_serve_is_refused_with_the_reason(
    extended: Extended, tmp_path: Path, methods: str, said: str
) -> None:
    extended(methods)
    with pytest.raises(MethodError, match=said) as caught:
        export(tmp_path / "source", tmp_path / "out", to="vllm")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_attention_without_the_interface_is_refused(extended: Extended, tmp_path: Path) -> None:
    extended("coca", "gptj")
    with pytest.raises(FamilyError, match="attention of gptj does not call"):
        export(tmp_path / "source", tmp_path / "out", to="vllm")


class TwoCalls(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        attend = ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", None)
        return attend(self, x) + attend(self, x)


class ComputedScale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return attend(self, x, scaling=self.scaling * 2)


class FixedScale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return attend(self, x, scaling=0.5)


def test_vllms_rule_for_attention_modules() -> None:
    assert calls_one_interface(LlamaAttention)
    assert calls_one_interface(FixedScale)
    assert not calls_one_interface(TwoCalls)
    assert not calls_one_interface(ComputedScale)


def test_patched_attention_meets_that_rule_in_every_family_but_gptj() -> None:
    assert set(ROWS) == set(FAMILIES)
    refused = {name for name, row in ROWS.items() if not calls_one_interface(row.patched_class)}
    assert refused == {"gptj"}


def test_the_fusers_of_vllm_find_no_projections_to_merge(extended: Extended) -> None:
    """vLLM merges q, k and v where tracing a module shows the three; then it would run the library's own forward."""
    attention = extended("coca").model.layers[0].self_attn
    tracer = torch.fx.Tracer()
    tracer.is_leaf_module = lambda *_: True  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="co_varnames"):
        tracer.trace(attention, concrete_args={"past_key_values": None})
    assert not [node for node in tracer.graph.nodes if node.op == "call_module"]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the plug-in registers with a stand-in for vLLM."""
    found: dict[str, str] = {}
    module = types.ModuleType("vllm")
    module.ModelRegistry = types.SimpleNamespace(register_model=found.__setitem__)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    entry_points()["longspan"]()
    return found


def entry_points() -> dict[str, Callable[[], None]]:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    group = project["entry-points"]["vllm.general_plugins"]
    pairs = {name: value.split(":") for name, value in group.items()}
    return {name: getattr(importlib.import_module(module), function) for name, (module, function) in pairs.items()}


def test_the_plugin_registers_each_family_with_vllms_transformers_backend(registered: dict[str, str]) -> None:
    place = "vllm.model_executor.models.transformers"
    assert registered["LongspanLlamaForCausalLM"] == f"{place}:TransformersForCausalLM"
    assert registered["LongspanMixtralForCausalLM"] == f"{place}:TransformersMoEForCausalLM"
    assert registered["LongspanQwen3MoeForCausalLM"] == f"{place}:TransformersMoEForCausalLM"
    assert len(registered) == len(ROWS) - 1
    assert "LongspanGPTJForCausalLM" not in registered


def test_the_plugin_does_nothing_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[object] = []
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(AutoModel, "register", lambda *arguments, **_: registered.append(arguments))
    for register in entry_points().values():
        register()
    assert not registered


def attend_as_vllm_does(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    attention_instances: dict[int, list[tuple[Tensor, Tensor]]] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """One flat batch of new tokens, no mask but causality, and keys kept as they come: vLLM's attention in short."""
    assert attention_instances is not None
    assert query.shape[-1] == key.shape[-1] == value.shape[-1] == module.config.hidden_size // 4
    stored = attention_instances[module.layer_idx]
    stored.append((key, value))
    keys, values = (torch.cat(parts, dim=2) for parts in zip(*stored, strict=True))
    queries = query.shape[2]
    seen = torch.ones(queries, keys.shape[2], dtype=torch.bool).tril(keys.shape[2] - queries)
    grouped = query.shape[1] != keys.shape[1]
    output = functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=seen, scale=scaling, enable_gqa=grouped
    )
    return output.transpose(1, 2).reshape(queries, -1), None


@pytest.mark.parametrize("methods", ["coca+yarn", "coca(form='slack')+pi", "pope(width='half')+log_n"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_the_exported_folder_runs_as_vllm_runs_it(
    extended: Extended, tmp_path: Path, registered: dict[str, str], family: str, methods: str
) -> None:
    """Built from the config alone by AutoModel, fed in pieces with positions, no cache of transformers and no mask."""
    model = extended(methods, family)
    export(tmp_path / "source", tmp_path / "out", to="vllm")
    assert read_config(tmp_path / "out")["architectures"][0] in registered
    AttentionInterface.register("vllm", attend_as_vllm_does)
    decoder = AutoModel.from_pretrained(tmp_path / "out", attn_implementation="vllm")
    instances: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in range(2)}
    ids, hidden = tokens(200), []
    with torch.no_grad():
        for start in (0, 150, 199):
            piece = ids[:, start : {0: 150, 150: 199, 199: 200}[start]]
            positions = torch.arange(start, start + piece.shape[1])[None]
            options = {"use_cache": False, "position_ids": positions, "attention_instances": instances}
            hidden.append(decoder(piece, **options).last_hidden_state)
        found = model.get_output_embeddings()(torch.cat(hidden, dim=1))
    assert logit_distance(found, logits(model, 200)) < LOGITS


def test_nothing_of_longspan_imports_vllm() -> None:
    source = Path(inspect.getfile(export)).parents[1]
    lines = [line for path in source.rglob("*.py") for line in path.read_text().splitlines()]
    assert not [line for line in lines if line.strip().startswith(("import vllm", "from vllm"))]
