"""GGUF files, read back by the package that llama.cpp's authors write them with."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, normalizers, pre_tokenizers
from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longspan.errors import CheckpointError, ConfigError, DataError, FamilyError, MethodError
from longspan.export import Exported, export

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'longspan[gguf]'")

WithWords = Callable[..., PreTrainedModel]


@pytest.fixture
def written(with_words: WithWords, tmp_path: Path) -> Callable[..., gguf.GGUFReader]:
    """written("yarn", "qwen2", ...) is the file of such a model, read back."""

    def make(*arguments: object, dtype: str | None = None, **settings: object) -> gguf.GGUFReader:
        with_words(*arguments, **settings)
        export(tmp_path / "source", tmp_path / "model.gguf", to="gguf", dtype=dtype, overwrite=True)
        return gguf.GGUFReader(tmp_path / "model.gguf")

    return make


@pytest.fixture
def refused(with_words: WithWords, tmp_path: Path) -> Callable[..., str]:
    """refused(MethodError, "coca") checks that the model is refused, that nothing is written, and gives the reason."""

    def make(error: type[Exception], *arguments: object, **settings: object) -> str:
        with_words(*arguments, **settings)
        with pytest.raises(error) as caught:
            export(tmp_path / "source", tmp_path / "out", to="gguf")
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    return make


def keys(reader: gguf.GGUFReader, start: str = "") -> dict[str, object]:
    return {name: field.contents() for name, field in reader.fields.items() if name.startswith(start)}


def tensors(reader: gguf.GGUFReader) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.data for tensor in reader.tensors}


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ("rope", {"freq_base": 10000.0}),
        ("base_change", {"freq_base": 500000.0}),
        ("ntk", {"freq_base": pytest.approx(10000 * 4 ** (8 / 6))}),
        ("dynamic_ntk(factor=1.0, static_for='target')", {"freq_base": pytest.approx(10000 * 4 ** (8 / 6))}),
        ("pi", {"freq_base": 10000.0, "scaling.type": "linear", "scaling.factor": 4.0}),
        (
            "yarn",
            {
                "freq_base": 10000.0,
                "scaling.type": "yarn",
                "scaling.factor": 4.0,
                "scaling.original_context_length": 64,
            },
        ),
        (
            "yarn(attention_factor=1.3)",
            {
                "freq_base": 10000.0,
                "scaling.type": "yarn",
                "scaling.factor": 4.0,
                "scaling.original_context_length": 64,
                "scaling.attn_factor": pytest.approx(1.3 / (0.1 * np.log(4) + 1)),
            },
        ),
        ("yarn(ramp='turns')", {"freq_base": 10000.0, "scaling.attn_factor": pytest.approx(0.1 * np.log(4) + 1)}),
        ("llama3", {"freq_base": 10000.0}),
    ],
)
def test_the_rope_keys_are_those_that_llama_cpp_reads(
    written: Callable[..., gguf.GGUFReader], methods: str, expected: dict[str, object]
) -> None:
    reader = written(methods)
    found = {name.removeprefix("llama.rope."): value for name, value in keys(reader, "llama.rope.").items()}
    assert found == expected
    assert ("rope_freqs.weight" in tensors(reader)) == (methods in ("llama3", "yarn(ramp='turns')"))
    assert keys(reader)["llama.context_length"] == (64 if methods == "rope" else 256)


def test_the_factor_of_each_pair_is_how_much_transformers_slows_it(written: Callable[..., gguf.GGUFReader]) -> None:
    reader = written("llama3(factor=8.0)", max_position_embeddings=2048, target_length=4096)
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"rope_theta": 1e4, "original_max_position_embeddings": 2048}
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, rope_parameters=rope)
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    plain = 10000 ** (-torch.arange(0, 8, 2) / 8)
    found = torch.from_numpy(tensors(reader)["rope_freqs.weight"].copy())
    assert 1 < found[2] < found[3] == 8
    torch.testing.assert_close(found, plain / slowed, rtol=1e-5, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_q_and_k_go_to_neighbouring_pairs_and_all_else_stays(
    written: Callable[..., gguf.GGUFReader], tmp_path: Path, tied: bool
) -> None:
    found = tensors(written("yarn", tie_word_embeddings=tied))
    source = load_file(tmp_path / "source" / "model.safetensors")
    order = [8 * head + row for head in range(4) for row in (0, 4, 1, 5, 2, 6, 3, 7)]
    layer = {name.removeprefix("model.layers.1."): value.numpy() for name, value in source.items()}
    assert (found["blk.1.attn_q.weight"] == layer["self_attn.q_proj.weight"][order]).all()
    assert (found["blk.1.attn_k.weight"] == layer["self_attn.k_proj.weight"][order[:16]]).all()
    assert (found["blk.1.attn_v.weight"] == layer["self_attn.v_proj.weight"]).all()
    assert (found["blk.1.ffn_down.weight"] == layer["mlp.down_proj.weight"]).all()
    assert ("output.weight" in found) == (not tied)
    assert len(found) == len(source) == 3 + 2 * 9 - tied


def test_half_precision_keeps_vectors_in_float32(written: Callable[..., gguf.GGUFReader], tmp_path: Path) -> None:
    reader = written("pi", dtype="bfloat16")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == "BF16"
    assert kinds["blk.0.attn_norm.weight"] == kinds["output_norm.weight"] == "F32"
    source = load_file(tmp_path / "source" / "model.safetensors")["model.embed_tokens.weight"]
    found = gguf.quants.dequantize(tensors(reader)["token_embd.weight"], gguf.GGMLQuantizationType.BF16)
    assert (found == source.bfloat16().float().numpy()).all()
    assert (tensors(written("pi", dtype="float16"))["token_embd.weight"] == source.half().numpy()).all()


def test_the_vocabulary_is_the_tokenizers(
    written: Callable[..., gguf.GGUFReader], words: PreTrainedTokenizerFast
) -> None:
    found = keys(written("rope", vocab_size=len(words) + 2), "tokenizer.")
    assert found["tokenizer.ggml.tokens"] == [*words.convert_ids_to_tokens(range(len(words))), "[PAD320]", "[PAD321]"]
    assert found["tokenizer.ggml.token_type"] == [3, 3, 3, *[1] * 317, 5, 5]
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "smollm")
    assert [found[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")] == [0, 1, 2]
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert len(found["tokenizer.ggml.merges"]) == 320 - 259


def test_a_folder_holds_the_file_and_a_card(with_words: WithWords, tmp_path: Path) -> None:
    with_words("yarn")
    done = export(tmp_path / "source", tmp_path / "out", to="gguf")
    assert done == Exported(
        out=tmp_path / "out",
        to="gguf",
        methods=done.methods,
        original_length=64,
        target_length=256,
        code=False,
        reason=None,
        rope_type="yarn",
        max_length=256,
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.gguf", "README.md"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: gguf\n")
    assert "llama-cli --model model.gguf --ctx-size 256" in card
    assert "YaRN: leave fast pairs alone" in card


@pytest.mark.parametrize(
    ("methods", "reason"),
    [
        ("coca", "Coca changes what is rotated"),
        ("pope", "PoPE changes what is rotated"),
        ("alibi", "Alibi adds a bias"),
        ("log_n", "LogN scales each query by its position"),
        ("long_rope(start_tokens=4)", "LongRope turns the first tokens at a speed of their own"),
        ("dynamic_ntk", "extend the model with static_for='target'"),
        ("long_rope", "LongRope follows the length of the input"),
    ],
)
def test_methods_that_llama_cpp_cannot_compute_are_refused(
    refused: Callable[..., str], methods: str, reason: str
) -> None:
    assert reason in refused(MethodError, methods)


@pytest.mark.parametrize(
    "methods", ["llama3", "yarn(ramp='turns')", "long_rope(long_factor=[1,2,3,3],static_for='target')"]
)
def test_an_architecture_that_reads_no_factors_of_pairs_is_given_none(
    refused: Callable[..., str], methods: str
) -> None:
    assert "llama.cpp's qwen2 takes a base, linear scaling and YaRN" in refused(MethodError, methods, "qwen2")


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("phi3", {}, "GGUF export knows llama, mistral, qwen2, qwen3, not phi3"),
        ("gpt_neox", {}, "not gpt_neox"),
        ("mistral", {"sliding_window": 128}, "no sliding window of 128 tokens"),
        ("llama", {"hidden_act": "gelu"}, "no activation 'gelu'"),
        ("qwen2", {"head_dim": 16}, "no heads that are not hidden_size wide together"),
        ("qwen3", {"attention_bias": True}, "no biases in its attention"),
    ],
)
def test_models_that_llama_cpp_computes_otherwise_are_refused(
    refused: Callable[..., str], family: str, settings: dict[str, object], reason: str
) -> None:
    assert reason in refused(FamilyError, "pi", family, **settings)


def test_a_head_that_rotates_in_part_is_refused(refused: Callable[..., str]) -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    assert "no head that rotates in part" in refused(FamilyError, "pi", rope_parameters=rope)


def _lowercase(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def _digits_together(tokenizer: PreTrainedTokenizerFast) -> None:
    together = [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(together)


def _space_in_front(tokenizer: PreTrainedTokenizerFast) -> None:
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel()])


def _stripping(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<mask>", lstrip=True)]})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_lowercase, "it normalizes (Lowercase)"),
        (_digits_together, "its pre-tokenizer is none of smollm, llama-bpe, qwen2"),
        (_space_in_front, "its pre-tokenizer is none of"),
        (_stripping, "its token <mask> takes blanks"),
    ],
)
def test_tokenizers_that_llama_cpp_cannot_follow_are_refused(
    refused: Callable[..., str], words: PreTrainedTokenizerFast, change: Callable[[object], None], reason: str
) -> None:
    copied = PreTrainedTokenizerFast(
        tokenizer_object=type(words.backend_tokenizer).from_str(words.backend_tokenizer.to_str()),
        bos_token="<s>",
        eos_token="</s>",
    )
    change(copied)
    assert reason in refused(DataError, "pi", tokenizer=copied)


def test_a_vocabulary_larger_than_the_embedding_is_refused(refused: Callable[..., str]) -> None:
    assert "ids up to 319, but the embedding 318 rows" in refused(DataError, "pi", vocab_size=318)


def test_a_model_needs_a_tokenizer_and_an_end(with_words: WithWords, tmp_path: Path) -> None:
    model = with_words("pi")
    model.generation_config.eos_token_id = [1, 2, 3, 4]
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(DataError, match="4 tokens that end an answer"):
        export(tmp_path / "source", tmp_path / "out", to="gguf")
    (tmp_path / "source" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer lies with the model"):
        export(tmp_path / "source", tmp_path / "out", to="gguf")


def test_what_is_missing_is_named_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="records have no place"):
        export(tmp_path / "nowhere", tmp_path / "model.gguf", to="gguf", records=tmp_path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'longspan[gguf]'")):
        export(tmp_path / "nowhere", tmp_path / "out", to="gguf")
