"""How llama.cpp cuts text by the files, compared with the tokenizers they were made from."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaTokenizer, PreTrainedModel, PreTrainedTokenizerFast

import longspan
from export.gguf_client import serve
from longspan.models import load_model, load_tokenizer

gguf = pytest.importorskip("gguf")

TEXTS = (
    "It was 1937, and 42 ships; it's late, we'll go, THEY'LL stay.",
    "  two blanks,\ttab\n\n  lines \r\n end   ",
    "naïve café Ångström — “quotes” … 北京 2026 год ٣٤ ½ ² Ⅷ",
    "x = a[10:-3] // 7 ** 2  # code_name()\n\n\n",
    "🙂 emoji 👩‍👩‍👧 and e\u0301 combining",
    "",
    " ",
    "a",
)


def byte_level(kind: str, texts: list[str]) -> PreTrainedTokenizerFast:
    """A small tokenizer that cuts as Llama 3's or Qwen's does."""
    digits = "{1,3}" if kind == "llama-bpe" else ""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    backend = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    if kind == "llama-bpe":
        backend.post_processor = processors.TemplateProcessing(
            single=f"{special[0]} $A", special_tokens=[(special[0], 0)]
        )
    else:
        backend.normalizer = normalizers.NFC()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], eos_token=special[1])


@pytest.mark.parametrize("kind", ["smollm", "llama-bpe", "qwen2"])
def test_llama_cpp_cuts_text_as_the_tokenizer_does(
    with_words: Callable[..., PreTrainedModel],
    tmp_path: Path,
    words: PreTrainedTokenizerFast,
    book: Path,
    kind: str,
) -> None:
    passage = book.read_text()[:3000]
    tokenizer = words if kind == "smollm" else byte_level(kind, [*TEXTS * 20, passage])
    with_words(tokenizer=tokenizer)
    client = serve(tmp_path)
    for text in (*TEXTS, passage):
        composed = unicodedata.normalize("NFC", text)
        assert client.tokens(composed) == tokenizer(composed)["input_ids"], composed


def test_llama_2s_tokenizer_is_followed_but_for_a_first_blank(
    stories: Path, with_words: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    state = json.loads(load_tokenizer(stories).backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    tokenizer = LlamaTokenizer(vocab=state["vocab"], merges=merges, add_bos_token=True)
    with_words(tokenizer=tokenizer)
    client = serve(tmp_path)
    for text in TEXTS:
        if text.strip(" ") and not text.startswith(" "):
            assert client.tokens(text) == tokenizer(text)["input_ids"], text
    assert client.tokens("  two blanks") != tokenizer("  two blanks")["input_ids"]
    description = gguf.GGUFReader(tmp_path / "model.gguf").fields["general.description"].contents()
    assert description.endswith("the tokenizer only before one that does not begin with one")


def test_a_llama2c_vocabulary_is_cut_and_continued_alike(stories: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(stories, device="cpu"), load_tokenizer(stories)
    longspan.extend(model, "yarn", target_length=1024)
    for saved in (model, tokenizer):
        saved.save_pretrained(tmp_path / "source")
    client = serve(tmp_path)
    for text in (*TEXTS, "Once upon a time, there was a little girl named Lily."):
        assert client.tokens(text) == tokenizer(text)["input_ids"], text
    prompt = client.tokens("Once upon a time, there was a little girl named Lily.")
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        expected = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=100)[
            0, len(prompt) :
        ].tolist()
    assert client.greedy(prompt, 100) == expected
