from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from longspan.errors import CheckpointError, ConfigError
from longspan.models import load_model, load_tokenizer

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, LENGTH = 16, 24, 2, 4, 2, 280, 32


def write_llama2c(path: Path, *, tied: bool = True) -> list[np.ndarray]:
    """A random checkpoint in llama2.c's order of tensors, and the tensors."""
    rng = np.random.default_rng(0)
    kv_dim = DIM // HEADS * KV_HEADS
    shapes = [(VOCAB, DIM), (LAYERS, DIM), (LAYERS, DIM, DIM), (LAYERS, kv_dim, DIM), (LAYERS, kv_dim, DIM)]
    shapes += [(LAYERS, DIM, DIM), (LAYERS, DIM), (LAYERS, HIDDEN, DIM), (LAYERS, DIM, HIDDEN), (LAYERS, HIDDEN, DIM)]
    shapes += [(DIM,), (LENGTH, DIM // HEADS // 2), (LENGTH, DIM // HEADS // 2)]
    shapes += [] if tied else [(VOCAB, DIM)]
    tensors = [rng.normal(scale=0.5, size=shape).astype("<f4") for shape in shapes]
    header = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB if tied else -VOCAB, LENGTH)
    path.write_bytes(header + b"".join(tensor.tobytes() for tensor in tensors))
    return tensors


def write_vocabulary(path: Path, words: list[str]) -> None:
    """llama2.c's file of pieces: three special ones, 256 bytes, then words from the best score down."""
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    data = struct.pack("<i", max(map(len, pieces)))
    for index, piece in enumerate(pieces):
        encoded = piece.encode()
        data += struct.pack("<fi", float(min(0, 259 - index)), len(encoded)) + encoded
    path.write_bytes(data)


def run_c(tensors: list[np.ndarray], tokens: list[int], *, tied: bool) -> np.ndarray:
    """`forward` of llama2.c's run.c in float64: one position after the other, rotation on neighbouring pairs."""
    emb, att_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3, norm, *rest = (t.astype(np.float64) for t in tensors)
    head_dim, group = DIM // HEADS, HEADS // KV_HEADS
    keys: list[list[np.ndarray]] = [[] for _ in range(LAYERS)]
    values: list[list[np.ndarray]] = [[] for _ in range(LAYERS)]

    def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return weight * x / np.sqrt(np.mean(x * x) + 1e-5)

    def rotate(vector: np.ndarray, position: int) -> np.ndarray:
        out = vector.copy()
        for i in range(0, vector.size, 2):
            angle = position / 10000.0 ** ((i % head_dim) / head_dim)
            c, s = np.cos(angle), np.sin(angle)
            out[i], out[i + 1] = vector[i] * c - vector[i + 1] * s, vector[i] * s + vector[i + 1] * c
        return out

    logits = []
    for position, token in enumerate(tokens):
        x = emb[token]
        for layer in range(LAYERS):
            h = rms(x, att_norm[layer])
            q = rotate(wq[layer] @ h, position)
            keys[layer].append(rotate(wk[layer] @ h, position))
            values[layer].append(wv[layer] @ h)
            out = np.zeros(DIM)
            for head in range(HEADS):
                mine = slice(head * head_dim, (head + 1) * head_dim)
                theirs = slice(head // group * head_dim, (head // group + 1) * head_dim)
                scores = np.array([q[mine] @ k[theirs] for k in keys[layer]]) / np.sqrt(head_dim)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                out[mine] = sum(w * v[theirs] for w, v in zip(weights, values[layer], strict=True))
            x = x + wo[layer] @ out
            h = rms(x, ffn_norm[layer])
            gate = w1[layer] @ h
            x = x + w2[layer] @ (gate / (1 + np.exp(-gate)) * (w3[layer] @ h))
        logits.append((emb if tied else rest[-1]) @ rms(x, norm))
    return np.stack(logits)


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama2c_checkpoint_gives_the_logits_of_run_c(tmp_path: Path, tied: bool) -> None:
    tensors = write_llama2c(tmp_path / "tiny.bin", tied=tied)
    tokens = [1, 7, 3, 200, 7, 45, 0, 279, 3]
    expected = run_c(tensors, tokens, tied=tied)
    model = load_model(str(tmp_path), device="cpu")
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].double().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def run_c_encode(text: str, words: list[str]) -> list[int]:
    """`encode` of llama2.c's run.c: again and again the neighbours whose union has the best score."""
    ids = {word: 259 + index for index, word in enumerate(words)}
    tokens = [1]
    for character in " " + text:
        tokens += [ids[character]] if character in ids else [byte + 3 for byte in character.encode()]
    names = {index: word for word, index in ids.items()}
    while True:
        pairs = [(names.get(a, "\0") + names.get(b, "\0"), at) for at, (a, b) in enumerate(pairwise(tokens))]
        known = [(ids[pair], at) for pair, at in pairs if pair in ids]
        if not known:
            return tokens
        best, at = min(known)  # scores fall with the id
        tokens[at : at + 2] = [best]


def test_a_llama2c_vocabulary_splits_text_as_run_c_does(tmp_path: Path) -> None:
    words = [" a", "ab", " ab", "ba", "bab", "aa", " ", "a", "b", "c"]
    write_llama2c(tmp_path / "tiny.bin")
    write_vocabulary(tmp_path / "tok.bin", words)
    tokenizer = load_tokenizer(tmp_path)
    rng = random.Random(0)
    for text in ["ab", "cab  é", *("".join(rng.choices("ab cé", k=12)) for _ in range(200))]:
        ids = tokenizer(text).input_ids
        assert ids == run_c_encode(text, words)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_stories260k_says_what_its_authors_printed(stories: Path) -> None:
    printed = (stories / "stories260K.md").read_text().split("-t 0.0\n", 1)[1].split("\n```", 1)[0]
    model, tokenizer = load_model(str(stories), device="cpu"), load_tokenizer(stories)
    with torch.no_grad():
        ids = model.generate(torch.tensor([[tokenizer.bos_token_id]]), max_new_tokens=255, do_sample=False)
    said = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert said.startswith(printed[:-20])
    assert len(printed) > 500


def test_the_vocabulary_of_stories260k_splits_text_as_sentencepiece_does(stories: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    theirs = sentencepiece.SentencePieceProcessor(str(stories / "tok512.model"))
    ours = load_tokenizer(stories / "stories260K.bin")
    prose = " ".join(
        (stories / "stories260K.md").read_text().split()
    )  # SentencePiece drops further blanks; run.c does not
    for text in (prose, "Hello, wörld 日本 12345", 'Lily\'s mom said, "No!"', "x"):
        assert ours(text).input_ids == [1, *theirs.encode(text)]
        assert ours.decode(ours(text).input_ids, skip_special_tokens=True) == text


def test_a_checkpoint_trained_elsewhere_loads_too(checkpoints_dir: Path) -> None:
    folder = checkpoints_dir / "aidreams260K"
    model, tokenizer = load_model(str(folder), device="cpu"), load_tokenizer(folder)
    assert model.config.num_key_value_heads == 4
    assert model.config.max_position_embeddings == 128
    assert len(tokenizer) == 512


def test_a_saved_llama2c_model_is_the_same_as_a_hugging_face_folder(tmp_path: Path) -> None:
    write_llama2c(tmp_path / "tiny.bin")
    write_vocabulary(tmp_path / "tok.bin", [" a", "ab", " ", "a", "b"])
    model, tokenizer = load_model(tmp_path, device="cpu"), load_tokenizer(tmp_path)
    out = tmp_path / "hf"
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    again = load_model(out, device="cpu")
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    assert load_tokenizer(out)("ab a é").input_ids == tokenizer("ab a é").input_ids


@pytest.fixture
def saved(tmp_path: Path, tiny_model: Callable[[str], PreTrainedModel]) -> Path:
    folder = tmp_path / "saved"
    tiny_model("llama").save_pretrained(folder)
    return folder


def test_a_hugging_face_folder_of_each_family_loads_bit_for_bit(
    tmp_path: Path, family: str, tiny_model: Callable[[str], PreTrainedModel]
) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path / family)
    again = load_model(str(tmp_path / family), device="cpu", dtype="float32")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert not again.training


def test_dtype_is_the_checkpoints_own_unless_asked(saved: Path) -> None:
    assert load_model(str(saved), device="cpu").dtype == torch.float32
    assert load_model(str(saved), device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="int7"):
        load_model(str(saved), dtype="int7")
    with pytest.raises(ConfigError, match="tpu"):
        load_model(str(saved), device="tpu")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("model.safetensors", truncate, "a safetensors file is truncated or corrupt"),
        ("model.safetensors", empty, "a safetensors file is truncated or corrupt"),
        ("model.safetensors", Path.unlink, "holds no weights: model.safetensors is missing"),
        ("config.json", truncate, "config.json is corrupt"),
        ("config.json", empty, "config.json is corrupt"),
        ("config.json", Path.unlink, "is no model folder"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(
    saved: Path, name: str, damage: Callable[[Path], None], said: str
) -> None:
    damage(saved / name)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(str(saved), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_folder_without_some_weights_is_refused_instead_of_filled_with_random_ones(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(saved / "model.safetensors")
    weights.pop("model.layers.1.self_attn.k_proj.weight")
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="k_proj"):
        load_model(str(saved), device="cpu")


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["intermediate_size"] = 48
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="the model cannot be read"):
        load_model(str(saved), device="cpu")


def test_pickled_weights_are_never_read(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds pickled weights"):
        load_model(str(saved), device="cpu")


@pytest.mark.parametrize("keep", [10, 100, 4000, -4])
def test_a_truncated_llama2c_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "tiny.bin"
    write_llama2c(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"tiny\.bin is (truncated or corrupt|not a llama2\.c checkpoint)"):
        load_model(str(path), device="cpu")


def test_a_truncated_or_missing_vocabulary_is_refused(tmp_path: Path) -> None:
    write_llama2c(tmp_path / "tiny.bin")
    with pytest.raises(CheckpointError, match="holds no vocabulary"):
        load_tokenizer(tmp_path)
    write_vocabulary(tmp_path / "tok.bin", ["a", "b"])
    truncate(tmp_path / "tok.bin")
    with pytest.raises(CheckpointError, match=r"tok\.bin is truncated"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "BPE", "vocab": {"a": "b"}}}', "[1]"])
def test_a_corrupt_tokenizer_is_refused_in_one_line(saved: Path, content: str) -> None:
    (saved / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is corrupt|the tokenizer cannot be read") as caught:
        load_tokenizer(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "nobody/has-this-model"])
def test_a_model_that_is_nowhere_is_named(name: str) -> None:
    said = "does not exist" if name != "nobody/has-this-model" else "is neither a folder here nor a"
    with pytest.raises(CheckpointError, match=f"^{re.escape(name)} {said}"):
        load_model(name, device="cpu")
    with pytest.raises(CheckpointError, match=f"^{re.escape(name)} {said}"):
        load_tokenizer(name)


def test_two_checkpoints_in_one_folder_must_be_told_apart(tmp_path: Path) -> None:
    write_llama2c(tmp_path / "a.bin")
    write_llama2c(tmp_path / "b.bin")
    with pytest.raises(CheckpointError, match=r"a\.bin, b\.bin"):
        load_model(str(tmp_path))
    assert load_model(str(tmp_path / "a.bin"), device="cpu").config.hidden_size == DIM
