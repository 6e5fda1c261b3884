"""What llama.cpp computes from the files, by its own library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import longspan
from conftest import make_model
from export.gguf_client import Client, serve
from longspan.export import export

LLAMA_CPP = 1e-4
"""Largest difference of a logit, in the spread of all, between torch and llama.cpp in float32; measured: 3e-5."""
HALF = {"float16": 0.03, "bfloat16": 0.2}
"""The same with weights of a random model in half precision, to which llama.cpp rounds activations too; measured: 0.015
and 0.1."""
WRONG = 0.01
"""What another rotation differs by at least."""
ORIGINAL, TARGET, LENGTH = 64, 256, 240


def ids(length: int, vocab_size: int = 300) -> list[int]:
    return torch.randint(3, vocab_size, (length,), generator=torch.Generator().manual_seed(0)).tolist()


def distance(client: Client, model: PreTrainedModel, tokens: list[int]) -> float:
    """Largest difference of a logit, in standard deviations of the model's logits."""
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].float().numpy()
    found = client.logits(tokens)[:, : expected.shape[1]]
    return float(np.abs(found - expected).max() / expected.std())


METHODS = {
    "pi": "linear",
    "ntk": "base",
    "base_change": "base",
    "dynamic_ntk(static_for='target')": "base",
    "yarn": "yarn",
    "yarn(attention_factor=1.3)": "yarn",
    "yarn(beta_fast=4.0, beta_slow=0.5)": "factors",
    "yarn(ramp='turns')": "factors",
    "yarn(truncate=False)": "factors",
    "llama3": "factors",
    f"long_rope(long_factor={[1 + pair / 4 for pair in range(16)]}, static_for='target')": "factors",
}


@pytest.mark.parametrize(("methods", "kind"), METHODS.items(), ids=list(METHODS))
def test_llama_cpp_gives_the_logits_of_the_extended_model(
    with_words: Callable[..., PreTrainedModel], tmp_path: Path, methods: str, kind: str
) -> None:
    plain = with_words("rope", hidden_size=128, spread=0.1)
    model = with_words(methods, hidden_size=128, spread=0.1)
    assert export(tmp_path / "source", tmp_path / "out", to="gguf").rope_type == kind
    client = Client(tmp_path / "out" / "model.gguf")
    assert distance(client, model, ids(LENGTH)) < LLAMA_CPP
    assert distance(client, plain, ids(LENGTH)) > WRONG


@pytest.mark.parametrize(
    ("family", "settings"), [("llama", {}), ("mistral", {"sliding_window": 256}), ("qwen2", {}), ("qwen3", {})]
)
@pytest.mark.parametrize("methods", ["rope", "pi", "ntk", "yarn"])
def test_each_family_gives_its_logits(
    with_words: Callable[..., PreTrainedModel],
    tmp_path: Path,
    family: str,
    settings: dict[str, object],
    methods: str,
) -> None:
    model = with_words(methods, family, **settings)
    assert distance(serve(tmp_path), model, ids(LENGTH)) < LLAMA_CPP


@pytest.mark.parametrize(
    "settings",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 16},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"vocab_size": 333},
        {"rms_norm_eps": 1e-2},
    ],
)
def test_settings_of_a_llama_are_kept(
    with_words: Callable[..., PreTrainedModel],
    tmp_path: Path,
    settings: dict[str, object],
) -> None:
    model = with_words("yarn", **settings)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # biases and norms, which start as zeros and ones
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(tmp_path / "source")
    assert distance(serve(tmp_path), model, ids(LENGTH)) < LLAMA_CPP


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_near(with_words: Callable[..., PreTrainedModel], tmp_path: Path, dtype: str) -> None:
    model = with_words("yarn")
    assert LLAMA_CPP < distance(serve(tmp_path, dtype=dtype), model, ids(LENGTH)) < HALF[dtype]


@pytest.fixture(scope="session")
def trained(words: PreTrainedTokenizerFast, book: Path) -> PreTrainedModel:
    """A Llama that has learned the made-up book, in windows of 64 tokens; random weights would give near ties."""
    tokens = torch.tensor(words(book.read_text(), verbose=False)["input_ids"])
    sizes = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": len(words)}
    model = make_model("llama", spread=0.05, bos_token_id=0, eos_token_id=1, **sizes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    source = torch.Generator().manual_seed(0)
    for _ in range(300):
        starts = torch.randint(len(tokens) - ORIGINAL, (16, 1), generator=source)
        batch = tokens[starts + torch.arange(ORIGINAL)]
        loss = model(batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 2, "it has learned too little to be sure of its next tokens"
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("methods", ["rope", "pi", "ntk", "yarn", "yarn(ramp='turns')", "llama3"])
def test_llama_cpp_goes_on_with_the_tokens_of_transformers_beyond_the_trained_window(
    trained: PreTrainedModel,
    words: PreTrainedTokenizerFast,
    book: Path,
    tmp_path: Path,
    methods: str,
) -> None:
    trained.save_pretrained(tmp_path / "plain")
    model = longspan.load(tmp_path / "plain")
    longspan.extend(model, methods, target_length=TARGET)
    for saved in (model, words):
        saved.save_pretrained(tmp_path / "source")
    assert not export(tmp_path / "source", tmp_path / "out").code
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "out")  # transformers' own
    reference.generation_config.eos_token_id = None
    client, text = serve(tmp_path), book.read_text()
    for start in (0, 1000, 2000, 3000):
        prompt = words(text[start:], verbose=False)["input_ids"][:200]
        with torch.no_grad():
            expected = reference.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=50)[0, 200:].tolist()
        assert client.greedy(prompt, 50) == expected
        assert distance(client, reference, prompt + expected) < LLAMA_CPP
